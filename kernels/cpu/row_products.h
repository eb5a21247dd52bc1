// y = x wᵀ, a row's numbers being sums in an order that follows from their depth alone: products
// are fused into the sum one after another, over blocks of the depth, and the blocks' sums are
// added one after another. So a row's bits depend neither on how many rows are multiplied with it
// nor on where it stands among them, which is why a text has the same log-probabilities token by
// token, in one pass, and in training.
//
// A library gives no such promise: oneDNN's sgemm has kernels that sum in other orders for few
// rows, for one column, and on AVX2 for any number. On AVX-512 its products of 16 rows and more are
// mostly these sums in these blocks. GFLOP/s of one core (EPYC, AVX-512), rows x N x K, ours and
// version 2.6:
//
//     1 x 512 x 512   8 x 512 x 512   16 x 512 x 512   64 x 512 x 512   128 x 128 x 512
//     17     40       78    105       93     50        108     89       106     95
//
// and on an EPYC with AVX2:
//
//     16 x 512 x 128   64 x 512 x 128   64 x 128 x 512   512 x 384 x 128   512 x 1408 x 512
//     82      69       81      86       81      85       82       89       72        80
#ifndef MOETRAIN_KERNELS_CPU_ROW_PRODUCTS_H
#define MOETRAIN_KERNELS_CPU_ROW_PRODUCTS_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/cpu/vector_math.h"
#include "kernels/tensor.h"

enum {
    ROWS_AT_ONCE = 128,                    // that row_product takes
    DEPTH_BLOCK = LANES == 16 ? 384 : 192, // as oneDNN has it for these registers
    MOST_DEPTH = 384,
    // scratch of row_product: rows turned round, a tile's rows of w in f32, and sums
    ROW_PRODUCT_FLOATS = ROWS_AT_ONCE * MOST_DEPTH + 8 * MOST_DEPTH + 24 * ROWS_AT_ONCE,
};

// A matrix w as it is stored. The types of floats have the bits of the same numbers in f32; sums of
// i8 have an order of their own, of their depth alone as well.
typedef struct WeightRows {
    const void *data;
    DType type;    // F32, BF16, F16 or I8
    int64_t width; // elements from row to row
} WeightRows;

// y (rows, columns) = x (rows, depth) wᵀ, w (columns, depth), or that is added to y; rows at most
// ROWS_AT_ONCE.
//   y_width, x_width  floats from row to row
//   scratch  ROW_PRODUCT_FLOATS
void row_product(float *y, int64_t y_width, const float *x, int64_t x_width, WeightRows w,
                 int64_t rows, int64_t columns, int64_t depth, bool add, float *scratch);

#endif
