#include <math.h>
#include <string.h>

#include "kernels/cpu/bf16.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/vector_math.h"

// Turns a row of logits into (softmax - onehot) · scale and returns the sum of its exponentials.
static float row_gradient(float *logits, int64_t V, int32_t target, float largest, float scale) {
    for (int64_t v = 0; v < V; v++) logits[v] = exp_f32(logits[v] - largest);
    float sum = sum_of(logits, V), factor = scale / sum;
    for (int64_t v = 0; v < V; v++) logits[v] *= factor;
    logits[target] -= scale;
    return sum;
}

// That sum alone, in the same bits.
static float sum_of_row(const float *logits, int64_t V, float largest) {
    Lanes s0 = {0}, s1 = {0};
    int64_t v = 0;
    for (; v + 2 * LANES <= V; v += 2 * LANES) {
        s0 += lanes_exp(lanes_load(logits + v) - largest);
        s1 += lanes_exp(lanes_load(logits + v + LANES) - largest);
    }
    if (v + LANES <= V) {
        s0 += lanes_exp(lanes_load(logits + v) - largest);
        v += LANES;
    }
    float sum = lanes_sum(s0 + s1);
    for (; v < V; v++) sum += exp_f32(logits[v] - largest);
    return sum;
}

// The loss of one row, which becomes its gradient unless scale is 0.
static float row_loss(float *row, int64_t V, int32_t target, float scale) {
    if (target == NO_TARGET) {
        if (scale != 0.0f) memset(row, 0, (size_t)V * sizeof *row);
        return 0.0f;
    }
    float largest = max_of(row, V), wanted = row[target];
    float sum =
        scale == 0.0f ? sum_of_row(row, V, largest) : row_gradient(row, V, target, largest, scale);
    return largest - wanted + logf(sum);
}

void cross_entropy_cpu(Device *dev, Tensor losses, Tensor logits, Tensor targets, float scale) {
    int64_t N = logits.shape[0], V = logits.shape[1];
    float *loss = tensor_f32(losses);
    const int32_t *target = tensor_i32(targets);
    if (logits.dtype == F32) {
        float *z = tensor_f32(logits);
#pragma omp parallel for schedule(static)
        for (int64_t n = 0; n < N; n++) loss[n] = row_loss(z + n * V, V, target[n], scale);
    } else {
        uint16_t *z = tensor_bf16(logits);
#pragma omp parallel for schedule(static)
        for (int64_t n = 0; n < N; n++) {
            float *row = thread_scratch((size_t)V * sizeof *row);
            widen_bf16(row, z + n * V, V);
            loss[n] = row_loss(row, V, target[n], scale);
            if (scale != 0.0f) round_to_bf16(z + n * V, row, V);
        }
    }
}
