// A norm of each row of the residual stream; model.norm says which (kernels/norms.h).
//
// The stream takes in a branch (the output of attention or of a feed-forward) where it is
// normalised next, in the same pass over memory: until then it travels as the pair of both.
#ifndef MOETRAIN_MODEL_NORM_H
#define MOETRAIN_MODEL_NORM_H

#include "model/work.h"

// The residual stream, x + branch. branch.data NULL: x alone.
typedef struct Residual {
    Tensor x;      // (N, D) f32
    Tensor branch; // (N, D) stored
} Residual;

typedef struct Norm {
    int weight, bias; // parameters (D); the bias -1 where the norm has none
    Tensor sum; // (N, D) the stream after taking in a branch; no data where none is ever taken
    Tensor x;   // (N, D) what was normalised: sum, or the caller's x; kept for the backward pass
    Tensor statistics; // (numbers of a row, N)
    Tensor out;        // (N, D) stored, or f32
    Tensor partial;    // (dense_parts, D for each parameter) scratch of the backward pass
    Tensor columns;    // likewise (dense_gradient.h)
} Norm;

void norm_declare(Norm *norm, Work *work, const char *name);
void norm_layout(Norm *norm, Work *work, bool takes_branch, Arena *activations, Arena *scratch);
// The same with a place for its output, (N, D) f32 or stored, which the backward pass does not
// need.
void norm_layout_into(Norm *norm, Work *work, Tensor out, bool takes_branch, Arena *activations,
                      Arena *scratch);
// Returns the stream with its branch taken in; norm->out is its norm. `in` must stay until the
// backward pass where it has no branch.
Tensor norm_forward(Norm *norm, Work *work, Residual in);
// dx (N, D) f32 += gradient, on top of the residual stream's.   dout (N, D) stored
void norm_backward(Norm *norm, Work *work, Tensor dx, Tensor dout);

#endif
