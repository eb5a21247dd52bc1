#include <math.h>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/vector_math.h"

void logit_sums_cpu(Device *dev, Tensor lse, Tensor squares, Tensor lse2_sum, Tensor logits) {
    int64_t N = logits.shape[0], E = logits.shape[1], parts = lse2_sum.shape[0], rows = N / parts;
    float *lse_of = tensor_f32(lse), *square = tensor_f32(squares);
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < N; n++) {
        const float *z = tensor_f32(logits) + n * E;
        float largest = max_of(z, E);
        lse_of[n] = largest + logf(sum_of_exp(z, E, largest));
        square[n] = dot_product(z, z, E);
    }
    for (int64_t p = 0; p < parts; p++) {
        double sum = 0;
        for (int64_t n = p * rows; n < (p + 1) * rows; n++)
            sum += (double)lse_of[n] * (double)lse_of[n];
        tensor_f64(lse2_sum)[p] = sum;
    }
}

void z_loss_backward_cpu(Device *dev, Tensor dlogits, Tensor logits, Tensor lse, float scale) {
    int64_t N = logits.shape[0], E = logits.shape[1];
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < N; n++) {
        const float *z = tensor_f32(logits) + n * E;
        float *dz = tensor_f32(dlogits) + n * E, of = tensor_f32(lse)[n];
        for (int64_t e = 0; e < E; e++) dz[e] += 2.0f * scale * of * exp_f32(z[e] - of);
    }
}
