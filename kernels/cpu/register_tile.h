// The inner loops of a small matrix product held in registers, and of a transposition: what
// attention is made of.
#ifndef MOETRAIN_KERNELS_CPU_REGISTER_TILE_H
#define MOETRAIN_KERNELS_CPU_REGISTER_TILE_H

#include <stdbool.h>

#include "kernels/cpu/vector_math.h"

enum {
    REGISTER_ROWS = 8,            // of a product tile: 8 x 2 vectors of sums in 32 registers
    REGISTER_COLUMNS = 2 * LANES, // of the widest tile
    TRANSPOSE = 16,               // rows and columns of a transposed block
};

// An operand that is read one number at a time, so that its transpose costs nothing: element (i, k)
// lies at data[i · row + k · column].
typedef struct Factor {
    const float *data;
    int64_t row, column;
} Factor;

// c (REGISTER_ROWS, vectors · LANES) = or += a (REGISTER_ROWS, depth) b (depth, vectors · LANES);
// `vectors` is 1 or 2 and known when compiling. Each sum runs over depth in order.
static inline __attribute__((always_inline)) void multiply_tile(float *c, int64_t c_width, Factor a,
                                                                const float *b, int64_t b_width,
                                                                int64_t depth, const int vectors,
                                                                const bool add) {
    Lanes sum[REGISTER_ROWS][2];
#pragma GCC unroll 8
    for (int i = 0; i < REGISTER_ROWS; i++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++)
            sum[i][v] = add ? lanes_load(c + i * c_width + v * LANES) : (Lanes){0};
    for (int64_t k = 0; k < depth; k++) {
        Lanes right[2];
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) right[v] = lanes_load(b + k * b_width + v * LANES);
#pragma GCC unroll 8
        for (int i = 0; i < REGISTER_ROWS; i++) {
            Lanes left = lanes_set(a.data[i * a.row + k * a.column]);
#pragma GCC unroll 2
            for (int v = 0; v < vectors; v++) sum[i][v] = lanes_fma(left, right[v], sum[i][v]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < REGISTER_ROWS; i++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) lanes_store(c + i * c_width + v * LANES, sum[i][v]);
}

// to (TRANSPOSE, TRANSPOSE) = fromᵀ
static inline void transpose_block(float *to, int64_t to_width, const float *from,
                                   int64_t from_width) {
#ifdef __AVX512F__
    // Pairs of rows, pairs of pairs, then whole quarters of registers.
    __m512 a[16], b[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) a[i] = _mm512_loadu_ps(from + i * from_width);
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
        a[i] = (__m512)_mm512_unpacklo_pd((__m512d)b[i], (__m512d)b[i + 2]);
        a[i + 1] = (__m512)_mm512_unpackhi_pd((__m512d)b[i], (__m512d)b[i + 2]);
        a[i + 2] = (__m512)_mm512_unpacklo_pd((__m512d)b[i + 1], (__m512d)b[i + 3]);
        a[i + 3] = (__m512)_mm512_unpackhi_pd((__m512d)b[i + 1], (__m512d)b[i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        __m512 low = _mm512_shuffle_f32x4(a[i], a[i + 4], 0x88);
        __m512 high = _mm512_shuffle_f32x4(a[i + 8], a[i + 12], 0x88);
        _mm512_storeu_ps(to + i * to_width, _mm512_shuffle_f32x4(low, high, 0x88));
        _mm512_storeu_ps(to + (i + 8) * to_width, _mm512_shuffle_f32x4(low, high, 0xdd));
        low = _mm512_shuffle_f32x4(a[i], a[i + 4], 0xdd);
        high = _mm512_shuffle_f32x4(a[i + 8], a[i + 12], 0xdd);
        _mm512_storeu_ps(to + (i + 4) * to_width, _mm512_shuffle_f32x4(low, high, 0x88));
        _mm512_storeu_ps(to + (i + 12) * to_width, _mm512_shuffle_f32x4(low, high, 0xdd));
    }
#else
    for (int i = 0; i < TRANSPOSE; i++)
        for (int j = 0; j < TRANSPOSE; j++) to[j * to_width + i] = from[i * from_width + j];
#endif
}

// to (columns, rows) = from (rows, columns)ᵀ
static inline void transpose(float *to, int64_t to_width, const float *from, int64_t from_width,
                             int64_t rows, int64_t columns) {
    int64_t whole_rows = rows / TRANSPOSE * TRANSPOSE;
    int64_t whole_columns = columns / TRANSPOSE * TRANSPOSE;
    for (int64_t i = 0; i < whole_rows; i += TRANSPOSE)
        for (int64_t j = 0; j < whole_columns; j += TRANSPOSE)
            transpose_block(to + j * to_width + i, to_width, from + i * from_width + j, from_width);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = i < whole_rows ? whole_columns : 0; j < columns; j++)
            to[j * to_width + i] = from[i * from_width + j];
}

#endif
