// A linear layer: y = x Wᵀ + b, W (out, in) as in nn.Linear; the bias b is optional.
#ifndef MOETRAIN_MODEL_LINEAR_H
#define MOETRAIN_MODEL_LINEAR_H

#include "model/work.h"

typedef struct Linear {
    int weight; // parameter (out, in), or (E, out, in) of experts
    int bias;   // parameter (out), or (E, out), after the weight in the table; -1: none
} Linear;

// Adds the weight's row, whose init_std is as model.init: normal has it (initialization.h), and
// with has_bias one called NAME.bias, zero at first and without weight decay.
Linear linear_declare(Work *work, Param weight, bool has_bias, const char *name_format, ...)
    __attribute__((format(printf, 4, 5)));

// Of a weight that the table has already: it adds the bias alone.
Linear linear_share(Work *work, int weight, bool has_bias, const char *name);

// The product alone, of rows of x with matrices [first, first + rows.groups), in whatever type the
// weights are held.
void linear_multiply(Work *work, Linear linear, Tensor y, Tensor x, Segments rows, int64_t first);
// y (N, out), x (N, in), both stored.
void linear_forward(Work *work, Linear linear, Tensor y, Tensor x);
// The gradients of weight and bias (overwritten), and dx (overwritten) unless dx.data is NULL. dy,
// x, dx stored.
void linear_backward(Work *work, Linear linear, Tensor dx, Tensor dy, Tensor x);
// The same of a further use, with the shares of the gradients (work_use_gradient).
void linear_backward_shared(Work *work, Linear linear, int weight_share, int bias_share, Tensor dx,
                            Tensor dy, Tensor x);

#endif
