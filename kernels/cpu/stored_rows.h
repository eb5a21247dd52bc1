// Rows of matrices, and runs of elements, that are stored in f32 or bf16 and computed in f32.
#ifndef MOETRAIN_KERNELS_CPU_STORED_ROWS_H
#define MOETRAIN_KERNELS_CPU_STORED_ROWS_H

#include "kernels/cpu/bf16.h"
#include "kernels/tensor.h"

// A row as f32: itself, or widened into `spare` (D).
static inline const float *row_as_f32(Tensor x, int64_t row, float *spare) {
    int64_t D = x.shape[1];
    if (x.dtype == F32) return tensor_f32(x) + row * D;
    widen_bf16(spare, tensor_bf16(x) + row * D, D);
    return spare;
}

// Where a row's result is written: the row itself, or `spare` (D), which finish_row then rounds
// into it.
static inline float *result_row(Tensor x, int64_t row, float *spare) {
    return x.dtype == F32 ? tensor_f32(x) + row * x.shape[1] : spare;
}
static inline void finish_row(Tensor x, int64_t row, const float *spare) {
    if (x.dtype == BF16) round_to_bf16(tensor_bf16(x) + row * x.shape[1], spare, x.shape[1]);
}

// Elements [first, first + n) as f32: where they lie, or widened into `room`.
static inline const float *elements_as_f32(Tensor x, int64_t first, int64_t n, float *room) {
    if (x.dtype == F32) return tensor_f32(x) + first;
    widen_bf16(room, tensor_bf16(x) + first, n);
    return room;
}

// Likewise where results are written, and what rounds them.
static inline float *result_elements(Tensor x, int64_t first, float *room) {
    return x.dtype == F32 ? tensor_f32(x) + first : room;
}
static inline void finish_elements(Tensor x, int64_t first, int64_t n, const float *room) {
    if (x.dtype == BF16) round_to_bf16(tensor_bf16(x) + first, room, n);
}

#endif
