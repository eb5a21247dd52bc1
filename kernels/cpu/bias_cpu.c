#include <string.h>

#include "kernels/cpu/bf16.h"
#include "kernels/cpu/cpu_ops.h"

enum { COLUMNS = 256 }; // of a row that are widened at a time, and that one task sums

// to[i] += b[i], in f32.
static void add_row(Tensor y, int64_t at, const float *b, int64_t width) {
    if (y.dtype == F32) {
        float *to = tensor_f32(y) + at;
        for (int64_t i = 0; i < width; i++) to[i] += b[i];
        return;
    }
    uint16_t *to = tensor_bf16(y) + at;
    for (int64_t first = 0; first < width; first += COLUMNS) {
        float wide[COLUMNS];
        int64_t columns = width - first < COLUMNS ? width - first : COLUMNS;
        widen_bf16(wide, to + first, columns);
        for (int64_t i = 0; i < columns; i++) wide[i] += b[first + i];
        round_to_bf16(to + first, wide, columns);
    }
}

// The group that a row belongs to: the last that begins at or before it.
static int64_t group_of(Segments rows, int64_t row) {
    int64_t first = 0, end = rows.groups;
    while (end - first > 1) {
        int64_t middle = (first + end) / 2;
        if (rows.offsets[middle * rows.parts] <= row)
            first = middle;
        else
            end = middle;
    }
    return first;
}

void bias_forward_cpu(Device *dev, Tensor y, Tensor bias, Segments rows) {
    int64_t N = y.shape[1], begin = rows.offsets[0], end = rows.offsets[rows.groups * rows.parts];
    const float *b = tensor_f32(bias);
#pragma omp parallel for schedule(static)
    for (int64_t row = begin; row < end; row++) add_row(y, row * N, b + group_of(rows, row) * N, N);
}

// sum[0..columns) = Σ over rows [first, end) of dy, in the order of the rows.
static void sum_rows(float *sum, Tensor dy, int64_t first, int64_t end, int64_t column,
                     int64_t columns) {
    int64_t N = dy.shape[1];
    float total[COLUMNS] = {0};
    for (int64_t row = first; row < end; row++) {
        if (dy.dtype == F32) {
            const float *from = tensor_f32(dy) + row * N + column;
            for (int64_t i = 0; i < columns; i++) total[i] += from[i];
        } else {
            const uint16_t *from = tensor_bf16(dy) + row * N + column;
            for (int64_t i = 0; i < columns; i++) total[i] += f32_from_bf16(from[i]);
        }
    }
    memcpy(sum, total, (size_t)columns * sizeof *sum);
}

// The binary tree over the parts, whose rows start at `offsets`.
static void sum_parts(float *sum, Tensor dy, const int64_t *offsets, int64_t parts, int64_t column,
                      int64_t columns) {
    if (parts == 1) {
        sum_rows(sum, dy, offsets[0], offsets[1], column, columns);
        return;
    }
    float right[COLUMNS];
    sum_parts(sum, dy, offsets, parts / 2, column, columns);
    sum_parts(right, dy, offsets + parts / 2, parts / 2, column, columns);
    for (int64_t i = 0; i < columns; i++) sum[i] += right[i];
}

void bias_backward_cpu(Device *dev, Tensor dbias, Tensor dy, Segments rows) {
    int64_t N = dy.shape[1];
    float *to = tensor_f32(dbias);
#pragma omp parallel for schedule(dynamic, 1) collapse(2)
    for (int64_t g = 0; g < rows.groups; g++)
        for (int64_t column = 0; column < N; column += COLUMNS)
            sum_parts(to + g * N + column, dy, rows.offsets + g * rows.parts, rows.parts, column,
                      N - column < COLUMNS ? N - column : COLUMNS);
}
