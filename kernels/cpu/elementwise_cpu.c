#include <string.h>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/vector_math.h"

enum { CHUNK_BYTES = 1 << 18 }; // of a copy or fill that one thread takes at a time

void fill_zero_cpu(Device *dev, Tensor x) {
    char *to = x.data;
    int64_t bytes = (int64_t)tensor_bytes(x);
#pragma omp parallel for schedule(static)
    for (int64_t at = 0; at < bytes; at += CHUNK_BYTES)
        memset(to + at, 0, (size_t)(bytes - at < CHUNK_BYTES ? bytes - at : CHUNK_BYTES));
}

void copy_cpu(Device *dev, Tensor out, Tensor x) {
    char *to = out.data;
    const char *from = x.data;
    int64_t bytes = (int64_t)tensor_bytes(x);
#pragma omp parallel for schedule(static)
    for (int64_t at = 0; at < bytes; at += CHUNK_BYTES)
        memcpy(to + at, from + at, (size_t)(bytes - at < CHUNK_BYTES ? bytes - at : CHUNK_BYTES));
}

void add_cpu(Device *dev, Tensor out, Tensor a, Tensor b) {
    int64_t n = tensor_elements(out);
    float *to = tensor_f32(out);
    const float *x = tensor_f32(a), *y = tensor_f32(b);
#pragma omp parallel for simd schedule(static)
    for (int64_t i = 0; i < n; i++) to[i] = x[i] + y[i];
}

void segment_sum_cpu(Device *dev, Tensor sums, Tensor x, int64_t parts) {
    int64_t count = x.shape[0] / parts;
    double *to = tensor_f64(sums);
    const float *from = tensor_f32(x);
#pragma omp parallel for schedule(static)
    for (int64_t p = 0; p < parts; p++) {
        double sum = 0.0;
        for (int64_t i = 0; i < count; i++) sum += (double)from[p * count + i];
        to[p] = sum;
    }
}

enum { BLOCK = 4096 };

// Σ x² of one block: eight running sums, added in order.
static double block_sum_of_squares(const float *x, int64_t n) {
    enum { SUMS = 16 };
    double sum[SUMS] = {0}, total = 0.0;
    int64_t i = 0;
    for (; i + SUMS <= n; i += SUMS)
        for (int j = 0; j < SUMS; j++) sum[j] += (double)x[i + j] * (double)x[i + j];
    for (int j = 0; j < SUMS; j++) total += sum[j];
    for (; i < n; i++) total += (double)x[i] * (double)x[i];
    return total;
}

void sum_of_squares_cpu(Device *dev, Tensor sums, Tensor x) {
    int64_t rows = x.shape[0];
    if (rows == 0) return;
    int64_t width = tensor_elements(x) / rows, blocks = (width + BLOCK - 1) / BLOCK;
    double *to = tensor_f64(sums),
           *block_sum = thread_scratch((size_t)(rows * blocks) * sizeof *to);
    const float *from = tensor_f32(x);
#pragma omp parallel for schedule(static) collapse(2)
    for (int64_t r = 0; r < rows; r++)
        for (int64_t b = 0; b < blocks; b++) {
            int64_t left = width - b * BLOCK;
            block_sum[r * blocks + b] =
                block_sum_of_squares(from + r * width + b * BLOCK, left < BLOCK ? left : BLOCK);
        }
    for (int64_t r = 0; r < rows; r++) {
        to[r] = 0.0;
        for (int64_t b = 0; b < blocks; b++) to[r] += block_sum[r * blocks + b];
    }
}
