#include <math.h>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/vector_math.h"

enum { COLUMNS = 64 }; // of a block that a thread owns in a sequence: sums go down them, in order

// Softmax over slots: a thread owns a token. Softmax over tokens: a thread owns a block of columns.
void slot_weights_forward_cpu(Device *dev, Tensor dispatch, Tensor combine, Tensor logits,
                              int64_t T) {
    int64_t N = logits.shape[0], S = logits.shape[1], blocks = (S + COLUMNS - 1) / COLUMNS;
    const float *z = tensor_f32(logits);
#pragma omp parallel
    {
#pragma omp for schedule(static) nowait
        for (int64_t n = 0; n < N; n++) {
            const float *from = z + n * S;
            float *to = tensor_f32(combine) + n * S, largest = max_of(from, S);
            for (int64_t s = 0; s < S; s++) to[s] = exp_f32(from[s] - largest);
            float factor = 1.0f / sum_of(to, S);
            for (int64_t s = 0; s < S; s++) to[s] *= factor;
        }
#pragma omp for schedule(static) collapse(2)
        for (int64_t b = 0; b < N / T; b++)
            for (int64_t block = 0; block < blocks; block++) {
                float largest[COLUMNS], sum[COLUMNS] = {0};
                int64_t first = block * COLUMNS, count = S - first < COLUMNS ? S - first : COLUMNS;
                const float *from = z + b * T * S + first;
                float *to = tensor_f32(dispatch) + b * T * S + first;
                for (int64_t s = 0; s < count; s++) largest[s] = from[s];
                for (int64_t t = 1; t < T; t++)
                    for (int64_t s = 0; s < count; s++)
                        if (from[t * S + s] > largest[s]) largest[s] = from[t * S + s];
                for (int64_t t = 0; t < T; t++)
                    for (int64_t s = 0; s < count; s++) {
                        float value = exp_f32(from[t * S + s] - largest[s]);
                        to[t * S + s] = value;
                        sum[s] += value;
                    }
                for (int64_t s = 0; s < count; s++) sum[s] = 1.0f / sum[s];
                for (int64_t t = 0; t < T; t++)
                    for (int64_t s = 0; s < count; s++) to[t * S + s] *= sum[s];
            }
    }
}

void slot_weights_backward_cpu(Device *dev, Tensor dlogits, Tensor ddispatch, Tensor dcombine,
                               Tensor dispatch, Tensor combine, int64_t T) {
    int64_t N = dlogits.shape[0], S = dlogits.shape[1], blocks = (S + COLUMNS - 1) / COLUMNS;
#pragma omp parallel
    {
#pragma omp for schedule(static)
        for (int64_t n = 0; n < N; n++) {
            const float *weight = tensor_f32(combine) + n * S;
            const float *from = tensor_f32(dcombine) + n * S;
            float *to = tensor_f32(dlogits) + n * S, mean = dot_product(weight, from, S);
            for (int64_t s = 0; s < S; s++) to[s] = weight[s] * (from[s] - mean);
        }
#pragma omp for schedule(static) collapse(2)
        for (int64_t b = 0; b < N / T; b++)
            for (int64_t block = 0; block < blocks; block++) {
                float mean[COLUMNS] = {0};
                int64_t first = block * COLUMNS, count = S - first < COLUMNS ? S - first : COLUMNS;
                const float *weight = tensor_f32(dispatch) + b * T * S + first;
                const float *from = tensor_f32(ddispatch) + b * T * S + first;
                float *to = tensor_f32(dlogits) + b * T * S + first;
                for (int64_t t = 0; t < T; t++)
                    for (int64_t s = 0; s < count; s++)
                        mean[s] += weight[t * S + s] * from[t * S + s];
                for (int64_t t = 0; t < T; t++)
                    for (int64_t s = 0; s < count; s++)
                        to[t * S + s] += weight[t * S + s] * (from[t * S + s] - mean[s]);
            }
    }
}

// A thread owns a block of experts.
void count_slot_weights_cpu(Device *dev, Tensor counts, Tensor weights) {
    int64_t n = weights.shape[0], S = weights.shape[1], E = counts.shape[0];
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < E; first += COLUMNS) {
        int64_t here = E - first < COLUMNS ? E - first : COLUMNS;
        for (int64_t row = 0; row < n; row++) {
            const float *weight = tensor_f32(weights) + row * S + first;
            float sum[COLUMNS] = {0};
            for (int64_t s = 0; s < S; s += E)
                for (int64_t e = 0; e < here; e++) sum[e] += weight[s + e];
            for (int64_t e = 0; e < here; e++)
                tensor_i64(counts)[first + e] +=
                    sum[e] > 0 ? lrintf(sum[e] * SLOT_WEIGHT_UNITS) : 0;
        }
    }
}
