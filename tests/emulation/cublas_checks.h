// What cublas.cpp and cublaslt.cpp, the stand-ins for cuBLAS and cuBLASLt, share. They are stricter
// than the libraries: what those answer with an error status, or do wrong, ends the test with a
// message.
#ifndef MOETRAIN_TESTS_EMULATION_CUBLAS_CHECKS_H
#define MOETRAIN_TESTS_EMULATION_CUBLAS_CHECKS_H

#include <cublas_v2.h>
#include <stdint.h>

#include <vector>

#include "matrix_product.h"

namespace emulation {

// One product of a call, column-major unless row_major; op(A) is (m, k), op(B) (k, n).
struct Operand {
    const void *data;
    cudaDataType type;
    int64_t rows, columns, ld; // as stored
    int64_t batch_stride;
    bool row_major;
    bool transposed;

    int64_t extent() const; // elements from the first to behind the last
    Matrix matrix(int64_t batch) const;
};
struct Product {
    int64_t m, n, k, batches;
    float alpha, beta;
    Operand a, b, c, d;
};

int64_t type_bytes(cudaDataType type, const char *call); // f32 or bf16, else fatal
// Shapes, leading dimensions, natural alignment, memory of the device, and no overlap of results
// with operands.
void check_product(const Product &product, const char *call);
void enqueue_product(cudaStream_t stream, const Product &product, SumOrder order, const char *call);

// Which of the algorithms a library would take for a product of this size when nobody says which:
// another for nearly every other m, n and number of batches.
enum { ALGORITHMS = 8 };
int usual_algorithm(int64_t m, int64_t n, int64_t batches);
// No two of them add in the same order once k is 12 or more.
SumOrder sum_order(int tile, int splits);

} // namespace emulation

#endif
