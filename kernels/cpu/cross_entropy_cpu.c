#include <math.h>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/vector_math.h"

// Turns a row of logits into (softmax - onehot) · scale and returns the sum of its exponentials.
static float row_gradient(float *logits, int64_t V, int32_t target, float largest, float scale) {
    for (int64_t v = 0; v < V; v++) logits[v] = exp_f32(logits[v] - largest);
    float sum = sum_of(logits, V), factor = scale / sum;
    for (int64_t v = 0; v < V; v++) logits[v] *= factor;
    logits[target] -= scale;
    return sum;
}

void cross_entropy_cpu(Device *dev, Tensor losses, Tensor logits, Tensor targets, float scale) {
    int64_t N = logits.shape[0], V = logits.shape[1];
    float *loss = tensor_f32(losses), *z = tensor_f32(logits);
    const int32_t *target = tensor_i32(targets);
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < N; n++) {
        float *row = z + n * V;
        float largest = max_of(row, V), wanted = row[target[n]];
        float sum = scale == 0.0f ? sum_of_exp(row, V, largest)
                                  : row_gradient(row, V, target[n], largest, scale);
        loss[n] = largest - wanted + logf(sum);
    }
}
