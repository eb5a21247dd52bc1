#include <math.h>
#include <string.h>

#include "kernels/cpu/bf16.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/marked_rows.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/stored_rows.h"

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

void convert_cpu(Device *dev, Tensor out, Tensor x) {
    int64_t n = tensor_elements(x);
    if (x.dtype == F32) {
        const float *from = tensor_f32(x);
        uint16_t *to = tensor_bf16(out);
#pragma omp parallel for schedule(static)
        for (int64_t i = 0; i < n; i++) to[i] = bf16_from_f32(from[i]);
    } else {
        const uint16_t *from = tensor_bf16(x);
        float *to = tensor_f32(out);
#pragma omp parallel for schedule(static)
        for (int64_t i = 0; i < n; i++) to[i] = f32_from_bf16(from[i]);
    }
}

enum { TILE = 1024 }; // elements that are widened at a time

static void add_in_tiles(Tensor out, Tensor a, Tensor b) {
    int64_t n = tensor_elements(out);
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < n; first += TILE) {
        float room_a[TILE], room_b[TILE], room[TILE];
        int64_t count = n - first < TILE ? n - first : TILE;
        const float *x = elements_as_f32(a, first, count, room_a);
        const float *y = elements_as_f32(b, first, count, room_b);
        float *to = result_elements(out, first, room);
#pragma omp simd
        for (int64_t i = 0; i < count; i++) to[i] = x[i] + y[i];
        finish_elements(out, first, count, room);
    }
}

void add_cpu(Device *dev, Tensor out, Tensor a, Tensor b) {
    if (out.dtype != F32 || a.dtype != F32 || b.dtype != F32) {
        add_in_tiles(out, a, b);
        return;
    }
    int64_t n = tensor_elements(out);
    float *to = tensor_f32(out);
    const float *x = tensor_f32(a), *y = tensor_f32(b);
#pragma omp parallel for simd schedule(static)
    for (int64_t i = 0; i < n; i++) to[i] = x[i] + y[i];
}

void segment_max_cpu(Device *dev, Tensor maxima, int64_t column, Tensor x) {
    int64_t parts = maxima.shape[0], columns = maxima.shape[1], H = x.shape[1];
    int64_t rows = x.shape[0] / parts;
    const float *from = tensor_f32(x);
    double *to = tensor_f64(maxima);
#pragma omp parallel for schedule(static) collapse(2)
    for (int64_t p = 0; p < parts; p++)
        for (int64_t h = 0; h < H; h++) {
            float largest = -INFINITY;
            for (int64_t n = p * rows; n < (p + 1) * rows; n++)
                if (!(from[n * H + h] <= largest)) largest = from[n * H + h];
            to[p * columns + column + h] = (double)largest;
        }
}

void segment_sum_cpu(Device *dev, Tensor sums, int64_t column, Tensor x, double divisor) {
    int64_t parts = sums.shape[0], columns = sums.shape[1], count = x.shape[0] / parts;
    double *to = tensor_f64(sums);
    const float *from = tensor_f32(x);
#pragma omp parallel for schedule(static)
    for (int64_t p = 0; p < parts; p++) {
        double sum = 0.0;
        for (int64_t i = 0; i < count; i++) sum += (double)from[p * count + i];
        to[p * columns + column] += sum / divisor;
    }
}

enum { BLOCK = 4096 };

// Σ x² of one block: sixteen running sums, added in order.
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

// One block of a segment, and its sum.
typedef struct SquareBlock {
    int64_t first, count;
    double sum;
} SquareBlock;

int64_t sum_of_squares_scratch_bytes(int64_t elements, int64_t segments) {
    return (elements / BLOCK + segments) * (int64_t)sizeof(SquareBlock);
}

// Where a segment ends, as far as it is read.
static inline int64_t read_end(const int64_t *at, const int32_t *marks, int64_t s) {
    return marks && marks[s] == 0 ? at[s] : at[s + 1];
}

void sum_of_squares_cpu(Device *dev, Tensor sums, Tensor x, Tensor offsets, Tensor marks) {
    int64_t segments = sums.shape[0], blocks = 0;
    const int64_t *at = tensor_i64(offsets);
    const int32_t *read = marks.data ? tensor_i32(marks) : NULL;
    const float *from = tensor_f32(x);
    double *to = tensor_f64(sums);
    for (int64_t s = 0; s < segments; s++)
        blocks += (read_end(at, read, s) - at[s] + BLOCK - 1) / BLOCK;
    SquareBlock *block = thread_scratch((size_t)blocks * sizeof *block);
    for (int64_t s = 0, b = 0; s < segments; s++)
        for (int64_t i = at[s], end = read_end(at, read, s); i < end; i += BLOCK) {
            int64_t left = end - i;
            block[b++] = (SquareBlock){i, left < BLOCK ? left : BLOCK, 0.0};
        }
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < blocks; b++)
        block[b].sum = block_sum_of_squares(from + block[b].first, block[b].count);
    for (int64_t s = 0, b = 0; s < segments; s++) {
        to[s] = 0.0;
        for (int64_t i = at[s], end = read_end(at, read, s); i < end; i += BLOCK)
            to[s] += block[b++].sum;
    }
}

void sum_of_row_squares_cpu(Device *dev, Tensor sums, Tensor x, Tensor marks) {
    int64_t parts = sums.shape[0], rows = x.shape[0] / parts, D = x.shape[1];
    const int32_t *read = marks.data ? tensor_i32(marks) : NULL;
    const float *from = tensor_f32(x);
    double *to = tensor_f64(sums);
#pragma omp parallel for schedule(static)
    for (int64_t p = 0; p < parts; p++) {
        double sum = 0.0;
        for (int64_t r = p * rows, end; r < (p + 1) * rows; r = end) {
            end = row_run_end(r, (p + 1) * rows);
            if (read && !any_marked(read, r, end)) continue;
            for (; r < end; r++)
                if (!read || read[r] != 0) sum += block_sum_of_squares(from + r * D, D);
        }
        to[p] = sum;
    }
}
