// A dense matrix without bias: y = x Wᵀ, W (out, in) as in nn.Linear.
#ifndef MOETRAIN_MODEL_LINEAR_H
#define MOETRAIN_MODEL_LINEAR_H

#include "model/work.h"

// y (N, out), x (N, in), both stored; `weight` the parameter's number.
void linear_forward(Work *work, int weight, Tensor y, Tensor x);
// The weight's gradient (overwritten), and dx (overwritten) unless dx.data is NULL. dy, x, dx
// stored.
void linear_backward(Work *work, int weight, Tensor dx, Tensor dy, Tensor x);

#endif
