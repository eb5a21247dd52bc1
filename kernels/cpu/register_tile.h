// The inner loops of a small matrix product held in registers, and of a transposition: what
// attention is made of.
#ifndef MOETRAIN_KERNELS_CPU_REGISTER_TILE_H
#define MOETRAIN_KERNELS_CPU_REGISTER_TILE_H

#include <stdbool.h>

#include "kernels/cpu/vector_math.h"

enum {
    // of the largest product tile: 8 x 2 vectors of sums in 32 registers, or 6 x 2 in 16
    REGISTER_ROWS = LANES == 16 ? 8 : 6,
    REGISTER_COLUMNS = 2 * LANES,
    ROW_STEP = LANES == 16 ? 8 : 4, // tiles make up any multiple of it, see tile_height
};

// Rows of the next tile where `left` are to come: four where sixes do not come out even, since
// tiles of two wait for their own sums.
static inline int64_t tile_height(int64_t left) {
    return ROW_STEP == 4 && (left == 4 || left == 8) ? ROW_STEP : REGISTER_ROWS;
}

// An operand that is read one number at a time, so that its transpose costs nothing: element (i, k)
// lies at data[i · row + k · column].
typedef struct Factor {
    const float *data;
    int64_t row, column;
} Factor;

static inline __attribute__((always_inline)) void
multiply_tile_of(float *c, int64_t c_width, Factor a, const float *b, int64_t b_width,
                 int64_t depth, const int rows, const int vectors, const bool add) {
    Lanes sum[REGISTER_ROWS][2];
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++)
            sum[i][v] = add ? lanes_load(c + i * c_width + v * LANES) : (Lanes){0};
    for (int64_t k = 0; k < depth; k++) {
        Lanes right[2];
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) right[v] = lanes_load(b + k * b_width + v * LANES);
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
            Lanes left = lanes_set(a.data[i * a.row + k * a.column]);
#pragma GCC unroll 2
            for (int v = 0; v < vectors; v++) sum[i][v] = lanes_fma(left, right[v], sum[i][v]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) lanes_store(c + i * c_width + v * LANES, sum[i][v]);
}

// c (rows, vectors · LANES) = or += a (rows, depth) b (depth, vectors · LANES); `rows` as
// tile_height has it, `vectors` 1 or 2 and known when compiling. Each sum runs over depth in order.
static inline __attribute__((always_inline)) void multiply_tile(float *c, int64_t c_width, Factor a,
                                                                const float *b, int64_t b_width,
                                                                int64_t depth, int64_t rows,
                                                                const int vectors, const bool add) {
    if (rows == REGISTER_ROWS)
        multiply_tile_of(c, c_width, a, b, b_width, depth, REGISTER_ROWS, vectors, add);
    else
        multiply_tile_of(c, c_width, a, b, b_width, depth, ROW_STEP, vectors, add);
}

// A square of LANES registers turned round: pairs of rows, pairs of pairs, then whole parts of
// registers.
static inline __attribute__((always_inline)) void transpose_lanes(Lanes x[LANES]) {
#if defined(__AVX512F__)
    __m512 a[16], b[16];
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_ps((__m512)x[i], (__m512)x[i + 1]);
        b[i + 1] = _mm512_unpackhi_ps((__m512)x[i], (__m512)x[i + 1]);
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
        x[i] = (Lanes)_mm512_shuffle_f32x4(low, high, 0x88);
        x[i + 8] = (Lanes)_mm512_shuffle_f32x4(low, high, 0xdd);
        low = _mm512_shuffle_f32x4(a[i], a[i + 4], 0xdd);
        high = _mm512_shuffle_f32x4(a[i + 8], a[i + 12], 0xdd);
        x[i + 4] = (Lanes)_mm512_shuffle_f32x4(low, high, 0x88);
        x[i + 12] = (Lanes)_mm512_shuffle_f32x4(low, high, 0xdd);
    }
#elif defined(__AVX2__) && defined(__FMA__)
    __m256 a[8], b[8];
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        b[i] = _mm256_unpacklo_ps((__m256)x[i], (__m256)x[i + 1]);
        b[i + 1] = _mm256_unpackhi_ps((__m256)x[i], (__m256)x[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        a[i] = (__m256)_mm256_unpacklo_pd((__m256d)b[i], (__m256d)b[i + 2]);
        a[i + 1] = (__m256)_mm256_unpackhi_pd((__m256d)b[i], (__m256d)b[i + 2]);
        a[i + 2] = (__m256)_mm256_unpacklo_pd((__m256d)b[i + 1], (__m256d)b[i + 3]);
        a[i + 3] = (__m256)_mm256_unpackhi_pd((__m256d)b[i + 1], (__m256d)b[i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        x[i] = (Lanes)_mm256_permute2f128_ps(a[i], a[i + 4], 0x20);
        x[i + 4] = (Lanes)_mm256_permute2f128_ps(a[i], a[i + 4], 0x31);
    }
#else
    for (int i = 0; i < LANES; i++)
        for (int j = 0; j < i; j++) {
            float other = x[i][j];
            x[i][j] = x[j][i];
            x[j][i] = other;
        }
#endif
}

// to (LANES, LANES) = fromᵀ
static inline void transpose_block(float *to, int64_t to_width, const float *from,
                                   int64_t from_width) {
    Lanes x[LANES];
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) x[i] = lanes_load(from + i * from_width);
    transpose_lanes(x);
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) lanes_store(to + i * to_width, x[i]);
}

// to (columns, rows) = from (rows, columns)ᵀ
static inline void transpose(float *to, int64_t to_width, const float *from, int64_t from_width,
                             int64_t rows, int64_t columns) {
    int64_t whole_rows = rows / LANES * LANES;
    int64_t whole_columns = columns / LANES * LANES;
    for (int64_t i = 0; i < whole_rows; i += LANES)
        for (int64_t j = 0; j < whole_columns; j += LANES)
            transpose_block(to + j * to_width + i, to_width, from + i * from_width + j, from_width);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = i < whole_rows ? whole_columns : 0; j < columns; j++)
            to[j * to_width + i] = from[i * from_width + j];
}

#endif
