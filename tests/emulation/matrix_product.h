// The arithmetic of the stand-in for cuBLAS: products that add along k in an order that is chosen.
#ifndef MOETRAIN_TESTS_EMULATION_MATRIX_PRODUCT_H
#define MOETRAIN_TESTS_EMULATION_MATRIX_PRODUCT_H

#include <library_types.h>
#include <stdint.h>

namespace emulation {

// k is cut into `splits` equal parts; in each, sums of `block` consecutive products are added one
// after the other; then the parts. The sums are rounded to f32 at every addition, so another order
// gives other bits.
struct SumOrder {
    int block, splits;
};

// Element (i, j) lies `i * row_step + j * column_step` elements behind `data`. f32 or bf16.
struct Matrix {
    const void *data;
    cudaDataType type;
    int64_t row_step, column_step;
};

// d (m, n) = alpha a (m, k) b (k, n) + beta c (m, n). c is not read when beta is 0 and may be d.
void multiply(int64_t m, int64_t n, int64_t k, float alpha, Matrix a, Matrix b, float beta,
              Matrix c, Matrix d, SumOrder order);

} // namespace emulation

#endif
