// RMSNorm (arXiv:1910.07467) over the residual stream: out = x / sqrt(mean(x²) + eps) · weight, for
// each row.
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
    int weight;  // parameter (D)
    Tensor sum;  // (N, D) the stream after taking in a branch; no data where none is ever taken
    Tensor x;    // (N, D) what was normalised: sum, or the caller's x; kept for the backward pass
    Tensor rstd; // (N)
    Tensor out;  // (N, D) stored
    Tensor partial; // (dense_parts, D) scratch of the backward pass
} Norm;

void norm_declare(Norm *norm, Work *work, const char *name);
void norm_layout(Norm *norm, Work *work, bool takes_branch, Arena *activations, Arena *scratch);
// Returns the stream with its branch taken in; norm->out is its norm. `in` must stay until the
// backward pass where it has no branch.
Tensor norm_forward(Norm *norm, Work *work, Residual in);
// dx (N, D) f32 += gradient, on top of the residual stream's.   dout (N, D) stored
void norm_backward(Norm *norm, Work *work, Tensor dx, Tensor dout);

#endif
