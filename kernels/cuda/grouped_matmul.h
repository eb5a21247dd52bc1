// Private to kernels/cuda/: matrix products by our own kernels, for what cuBLAS does not promise or
// does not have.
//
// Their bits are the same for any number of rows and segments, any tile and any alignment
// (grouped_matmul_cuda.cu says why).
#ifndef MOETRAIN_KERNELS_CUDA_GROUPED_MATMUL_H
#define MOETRAIN_KERNELS_CUDA_GROUPED_MATMUL_H

#include "kernels/device.h"

#ifdef __cplusplus
extern "C" {
#endif

// c (m, n) = a b, in three forms. Matrices are row-major; a width is the distance of two rows, in
// elements.
//   y = x wᵀ    a (m, depth), b (n, depth): both hold the summed dimension in their rows
//   dx = dy w   a (m, depth), b (depth, n): b_transposed
//   dw = dyᵀ x  a (depth, m), b (depth, n): a_transposed and b_transposed
typedef struct MatrixProduct {
    void *c;
    const void *a, *b;
    DType c_type, type; // of c; of a and b
    int64_t m, n, depth;
    int64_t c_width, a_width, b_width;
    bool a_transposed, b_transposed;
} MatrixProduct;

// Where the rows of segment s begin: offsets[s] in device memory, `segments` of them and the end;
// each matrix of b serves `parts` of them, one after the other. offsets NULL: one segment, all
// rows.
typedef struct SegmentRows {
    const int64_t *offsets;
    int64_t segments, parts;
} SegmentRows;

// c and a are whole row tensors, b is one matrix or, one after the other, one for each group. p.m
// bounds the rows of all segments together: offsets[segments] - offsets[0] at most.
void grouped_matmul_rows(Device *dev, MatrixProduct p, SegmentRows rows);
// c is one matrix for each group: aᵀ b over the rows of its parts, added up as the fixed binary
// tree; p.depth is the number of rows without offsets and is not read with them. f32 results. Uses
// cuda_workspace when there are several parts.
void grouped_matmul_weight(Device *dev, MatrixProduct p, SegmentRows rows);

// The same two on Hopper, by warpgroups (warpgroup_matmul_cuda.cu), for products of which it is
// true that they do: decided by the GPU and by what does not depend on the number of rows.
bool warpgroup_multiplies(const Device *dev, MatrixProduct p);
void warpgroup_matmul_rows(Device *dev, MatrixProduct p, SegmentRows rows);
void warpgroup_matmul_weight(Device *dev, MatrixProduct p, SegmentRows rows);

// For cublasGemmGroupedBatchedEx: pointers to what each segment with rows reads and writes, in the
// order of the segments. `to` (3, segments) in device memory; of each row as many entries as
// segments have rows are written.
typedef struct PointerRule {
    const void *base;
    int64_t row_bytes, group_bytes; // to the next row's and the next group's; one of them 0
} PointerRule;
void grouped_pointers(Device *dev, const void **to, PointerRule first, PointerRule second,
                      PointerRule third, SegmentRows rows);

// to += from, n floats.
void add_floats(Device *dev, float *to, const float *from, int64_t n);
// Known numbers in [-1, 1) that use all bits of `type`, different for each seed.
void fill_test_pattern(Device *dev, void *to, DType type, int64_t n, uint32_t seed);

#ifdef __cplusplus
}
#endif

#endif
