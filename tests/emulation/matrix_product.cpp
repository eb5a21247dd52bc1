#include "matrix_product.h"

#include <string.h>

#include <algorithm>
#include <vector>

namespace emulation {

namespace {

// The training tests spend their time here: these functions are optimised, and not instrumented, in
// every build; the callers have checked the ranges.
#define FAST __attribute__((optimize("O3"), no_sanitize("address", "undefined")))

typedef float Lanes __attribute__((vector_size(64)));
constexpr int LANES = 16;
constexpr int ROWS = 2 * LANES, COLUMNS = 4; // of the tile that is computed at once

FAST float load(const Matrix &x, int64_t i, int64_t j) {
    int64_t at = i * x.row_step + j * x.column_step;
    if (x.type == CUDA_R_32F) return static_cast<const float *>(x.data)[at];
    uint32_t bits = (uint32_t) static_cast<const uint16_t *>(x.data)[at] << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

FAST void store(const Matrix &x, int64_t i, int64_t j, float value) {
    int64_t at = i * x.row_step + j * x.column_step;
    void *data = const_cast<void *>(x.data);
    if (x.type == CUDA_R_32F) {
        static_cast<float *>(data)[at] = value;
        return;
    }
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    bool is_nan = (bits & 0x7fffffff) > 0x7f800000;
    uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16; // to nearest, ties to even
    static_cast<uint16_t *>(data)[at] = is_nan ? 0x7fff : (uint16_t)rounded;
}

// Rows [first, first + width) as [k][width], zeros behind the last of `rows`. `x` is (rows, k).
FAST void pack(float *packed, const Matrix &x, int64_t first, int64_t rows, int64_t k, int width) {
    int64_t count = std::min<int64_t>(width, rows - first);
    memset(packed, 0, (size_t)(k * width) * sizeof *packed);
    if (x.row_step == 1) {
        for (int64_t j = 0; j < k; j++)
            for (int64_t i = 0; i < count; i++) packed[j * width + i] = load(x, first + i, j);
    } else {
        for (int64_t i = 0; i < count; i++)
            for (int64_t j = 0; j < k; j++) packed[j * width + i] = load(x, first + i, j);
    }
}

FAST void tile(float out[COLUMNS][ROWS], const float *a, const float *b, int64_t k,
               SumOrder order) {
    Lanes total[COLUMNS][2] = {};
    for (int s = 0; s < order.splits; s++) {
        Lanes part[COLUMNS][2] = {};
        int64_t begin = k * s / order.splits, end = k * (s + 1) / order.splits;
        for (int64_t first = begin; first < end; first += order.block) {
            int64_t last = std::min<int64_t>(first + order.block, end);
            Lanes sum[COLUMNS][2] = {};
            for (int64_t i = first; i < last; i++) {
                Lanes upper, lower;
                memcpy(&upper, a + i * ROWS, sizeof upper);
                memcpy(&lower, a + i * ROWS + LANES, sizeof lower);
#pragma GCC unroll 4
                for (int c = 0; c < COLUMNS; c++) {
                    sum[c][0] += upper * b[i * COLUMNS + c];
                    sum[c][1] += lower * b[i * COLUMNS + c];
                }
            }
#pragma GCC unroll 4
            for (int c = 0; c < COLUMNS; c++) part[c][0] += sum[c][0], part[c][1] += sum[c][1];
        }
        for (int c = 0; c < COLUMNS; c++) total[c][0] += part[c][0], total[c][1] += part[c][1];
    }
    memcpy(out, total, sizeof total);
}

FAST void write(const Matrix &d, const Matrix &c, const float sums[COLUMNS][ROWS], int64_t first_i,
                int64_t rows, int64_t first_j, int64_t columns, float alpha, float beta) {
    for (int64_t j = 0; j < columns; j++)
        for (int64_t i = 0; i < rows; i++) {
            float value = alpha * sums[j][i];
            if (beta != 0) value += beta * load(c, first_i + i, first_j + j);
            store(d, first_i + i, first_j + j, value);
        }
}

} // namespace

void multiply(int64_t m, int64_t n, int64_t k, float alpha, Matrix a, Matrix b, float beta,
              Matrix c, Matrix d, SumOrder order) {
    if (m == 0 || n == 0) return;
    Matrix b_columns = {b.data, b.type, b.column_step, b.row_step};
    std::vector<float> packed_a((size_t)(k * ROWS) + 1), packed_b;
    packed_b.resize((size_t)((n + COLUMNS - 1) / COLUMNS * COLUMNS * k) + 1);
    for (int64_t j = 0; j < n; j += COLUMNS)
        pack(&packed_b[(size_t)(j * k)], b_columns, j, n, k, COLUMNS);
    for (int64_t i = 0; i < m; i += ROWS) {
        pack(packed_a.data(), a, i, m, k, ROWS);
        for (int64_t j = 0; j < n; j += COLUMNS) {
            float sums[COLUMNS][ROWS];
            tile(sums, packed_a.data(), &packed_b[(size_t)(j * k)], k, order);
            write(d, c, sums, i, std::min<int64_t>(ROWS, m - i), j,
                  std::min<int64_t>(COLUMNS, n - j), alpha, beta);
        }
    }
}

} // namespace emulation
