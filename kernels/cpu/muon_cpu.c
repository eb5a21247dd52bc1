// What Muon does between its matrix products.
#include <math.h>

#include "kernels/cpu/bf16.h"
#include "kernels/cpu/cpu_ops.h"

enum { UNIT = 16 }; // elements of one group number

void momentum_direction_cpu(Device *dev, Tensor u, Tensor g, Tensor m, Momentum rule) {
    int64_t units = u.shape[0] / UNIT;
    float *direction = tensor_f32(u), *momentum = tensor_f32(m);
    const float *gradient = tensor_f32(g);
    // u = own · g' + ahead · m
    float own = rule.nesterov ? 1.0f : 0.0f, ahead = rule.nesterov ? rule.momentum : 1.0f;
#pragma omp parallel for schedule(static)
    for (int64_t unit = 0; unit < units; unit++)
#pragma omp simd
        for (int64_t i = unit * UNIT; i < (unit + 1) * UNIT; i++) {
            float gi = gradient[i] * rule.grad_scale;
            float mi = rule.momentum * momentum[i] + gi;
            momentum[i] = mi;
            direction[i] = own * gi + ahead * mi;
        }
}

void normalize_segments_cpu(Device *dev, Tensor x, Tensor squares, Tensor offsets, float eps) {
    enum { BLOCK = 4096 };
    float *to = tensor_f32(x);
    const double *square = tensor_f64(squares);
    const int64_t *at = tensor_i64(offsets);
    for (int64_t s = 0; s < squares.shape[0]; s++) {
        float factor = (float)(1.0 / (sqrt(square[s]) + (double)eps));
#pragma omp parallel for schedule(static)
        for (int64_t first = at[s]; first < at[s + 1]; first += BLOCK) {
            int64_t end = first + BLOCK < at[s + 1] ? first + BLOCK : at[s + 1];
            for (int64_t i = first; i < end; i++) to[i] *= factor;
        }
    }
}

void matrix_polynomial_cpu(Device *dev, Tensor square, Tensor a, MatrixPolynomial p) {
    int64_t n = a.shape[1], rows = a.shape[0] * n;
    float *to = tensor_f32(square);
    const float *from = tensor_f32(a);
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        for (int64_t i = row * n; i < (row + 1) * n; i++)
            to[i] = p.linear * from[i] + p.quadratic * to[i];
        to[row * n + row % n] += p.identity;
    }
}

void decayed_step_cpu(Device *dev, Tensor w, Tensor copy, Tensor step, Tensor groups,
                      DecayedStep rule) {
    int64_t units = groups.shape[0];
    const uint8_t *group = tensor_u8(groups);
    uint16_t *rounded = copy.data ? tensor_bf16(copy) : NULL;
    float *weight = tensor_f32(w);
    const float *by = tensor_f32(step);
#pragma omp parallel for schedule(static)
    for (int64_t u = 0; u < units; u++) {
        float lr = rule.lr[group[u]], weight_decay = rule.weight_decay[group[u]];
#pragma omp simd
        for (int64_t i = u * UNIT; i < (u + 1) * UNIT; i++)
            weight[i] -= lr * (by[i] + weight_decay * weight[i]);
        if (rounded) round_to_bf16(rounded + u * UNIT, weight + u * UNIT, UNIT);
    }
}
