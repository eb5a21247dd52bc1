// RMSNorm (arXiv:1910.07467): out = x / sqrt(mean(x²) + eps) · weight, for each row.
#ifndef MOETRAIN_MODEL_NORM_H
#define MOETRAIN_MODEL_NORM_H

#include "model/work.h"

typedef struct Norm {
    int weight;     // parameter (D)
    Tensor x;       // (N, D) input, borrowed from the caller: kept for the backward pass
    Tensor rstd;    // (N)
    Tensor out;     // (N, D)
    Tensor partial; // (dense_parts, D) scratch of the backward pass
} Norm;

void norm_declare(Norm *norm, Work *work, const char *name);
void norm_layout(Norm *norm, Work *work, Arena *activations, Arena *scratch);
void norm_forward(Norm *norm, Work *work, Tensor x);
// dx += gradient, on top of the residual stream's.
void norm_backward(Norm *norm, Work *work, Tensor dx, Tensor dout);

#endif
