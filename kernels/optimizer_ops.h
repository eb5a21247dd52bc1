// The ops that change parameters (kernels.h has what holds for all ops).
#ifndef MOETRAIN_KERNELS_OPTIMIZER_OPS_H
#define MOETRAIN_KERNELS_OPTIMIZER_OPS_H

#include "kernels/device.h"

#ifdef __cplusplus // .cu files
extern "C" {
#endif

// Groups of parameters at most that one update tells apart, each with its own rate and decay.
enum { UPDATE_GROUPS = 64 };

typedef struct AdamW {
    float lr[UPDATE_GROUPS], weight_decay[UPDATE_GROUPS];
    float beta1, beta2, eps;
    float bias_correction1, bias_correction2; // 1 - beta^t
    float grad_scale;                         // clipping: multiplies every gradient
} AdamW;
// Decoupled weight decay (arXiv:1711.05101): g' = g · grad_scale; m, v moments of g';
// w -= lr · (m̂ / (sqrt(v̂) + eps) + weight_decay · w). All parameters of a run in one call.
//   w, g, m, v (n)   copy (n) bf16: receives w rounded; data NULL: none
//   groups (n / 16) u8: which lr and weight_decay each 16 elements have; n is a multiple of 16
void adamw_update(Device *dev, Tensor w, Tensor copy, Tensor g, Tensor m, Tensor v, Tensor groups,
                  AdamW rule);

// What rows of a parameter have had of the updates that a run has made.
enum { UPDATE_HISTORY = 4 }; // numbers of an update: lr, weight decay, 1 / each bias correction
typedef struct LaggingRows {
    Tensor updates; // (R) i32: updates that each row has had, of `count`
    Tensor history; // (count or more, UPDATE_HISTORY) f32: the updates
    int64_t count;
    Tensor marks;  // (R) i32: rows that are brought up to date, those that are not 0
    Tensor listed; // (R + 1) i32 instead: those that list_names has named; neither: all rows are
} LaggingRows;
// The same for some rows of one parameter alone: each has the updates that it lacks, up to `count`,
// with a gradient of zero or, in the last of them, g. Numbers are those of as many calls of
// adamw_update, bit by bit where both are compiled alike.
//   w, g, m, v (R, D); g without data: zeros   copy as above   rule.lr, weight_decay and bias
//   corrections are not read: history has them
void adamw_rows(Device *dev, Tensor w, Tensor copy, Tensor g, Tensor m, Tensor v, LaggingRows rows,
                AdamW rule);

typedef struct Sgd {
    float lr[UPDATE_GROUPS], weight_decay[UPDATE_GROUPS];
    float momentum;
    bool nesterov;
    float grad_scale; // as AdamW's
} Sgd;
// As torch.optim.SGD without dampening, its decay coupled: g' = g · grad_scale + weight_decay · w;
// m = momentum · m + g'; w -= lr · (nesterov ? g' + momentum · m : m). Tensors as of adamw_update.
void sgd_update(Device *dev, Tensor w, Tensor copy, Tensor g, Tensor m, Tensor groups, Sgd rule);

typedef struct Lion {
    float lr[UPDATE_GROUPS], weight_decay[UPDATE_GROUPS];
    float beta1, beta2;
    float grad_scale; // as AdamW's
} Lion;
// Lion (arXiv:2302.06675): g' = g · grad_scale; w -= lr · (sign(beta1 · m + (1 - beta1) · g') +
// weight_decay · w), where sign(0) is 0; then m = beta2 · m + (1 - beta2) · g'. Tensors as of
// adamw_update.
void lion_update(Device *dev, Tensor w, Tensor copy, Tensor g, Tensor m, Tensor groups, Lion rule);

// What Muon is made of beside matrix products.
typedef struct Momentum {
    float momentum;
    bool nesterov;
    float grad_scale; // as AdamW's
} Momentum;
// g' = g · grad_scale; m = momentum · m + g'; u = nesterov ? g' + momentum · m : m.
//   u, g, m (n), n a multiple of 16
void momentum_direction(Device *dev, Tensor u, Tensor g, Tensor m, Momentum rule);
// x /= sqrt(squares[s]) + eps for elements offsets[s] .. offsets[s + 1]; others stay.
//   x (n)   squares (S) f64   offsets (S + 1) i64, ascending within 0..n
void normalize_segments(Device *dev, Tensor x, Tensor squares, Tensor offsets, float eps);

typedef struct MatrixPolynomial {
    float identity, linear, quadratic;
} MatrixPolynomial;
// square = identity · I + linear · a + quadratic · square, for each of G matrices; with a² in
// `square` it is a polynomial of a.
//   square, a (G, n, n)
void matrix_polynomial(Device *dev, Tensor square, Tensor a, MatrixPolynomial p);

typedef struct DecayedStep {
    float lr[UPDATE_GROUPS], weight_decay[UPDATE_GROUPS];
} DecayedStep;
// w -= lr · (step + weight_decay · w). Tensors as of adamw_update, step (n).
void decayed_step(Device *dev, Tensor w, Tensor copy, Tensor step, Tensor groups, DecayedStep rule);

// average = decay · average + (1 - decay) · w.   average, w (n), n a multiple of 16
void moving_average(Device *dev, Tensor average, Tensor w, float decay);
// w[r] *= factors[r].   w (R, D) f32   factors (R) f32
void scale_rows(Device *dev, Tensor w, Tensor factors);

#ifdef __cplusplus
}
#endif

#endif
