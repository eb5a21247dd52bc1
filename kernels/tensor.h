// The Tensor: a borrowed, contiguous, row-major view. An Arena (arena.h) owns the bytes.
// No strides, no reference count, no graph; passed by value. The only view is a range of rows.
#ifndef MOETRAIN_KERNELS_TENSOR_H
#define MOETRAIN_KERNELS_TENSOR_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/check.h"

#ifdef __cplusplus // .cu files
extern "C" {
#endif

typedef enum DType { F32, F64, I32, I64, U8, BF16, F16, I8 } DType;

// Which memory the bytes lie in. On the CPU backend everything is on the host; with CUDA the
// model's tensors are on the device (device.h), where only kernels and device collectives may touch
// them.
typedef enum Place { ON_HOST, ON_DEVICE } Place;

typedef struct Tensor {
    void *data;
    DType dtype;
    Place place;
    int rank;         // 1..4
    int64_t shape[4]; // last dimension fastest; unused entries are 1
} Tensor;
typedef Tensor Scratch; // in ops.h: room for an op, in which nobody reads before or after it

size_t dtype_bytes(DType dtype);
const char *dtype_name(DType dtype);

int64_t tensor_elements(Tensor x);
size_t tensor_bytes(Tensor x);

// A view of host memory with this shape. Not collective.
Tensor tensor_1d(void *data, DType dtype, int64_t n0);
Tensor tensor_2d(void *data, DType dtype, int64_t n0, int64_t n1);
Tensor tensor_3d(void *data, DType dtype, int64_t n0, int64_t n1, int64_t n2);

// Rows [first, first + count) of the first axis. Fatal when out of range.
Tensor tensor_rows(Tensor x, int64_t first, int64_t count);
// The same elements under another shape with as many elements. Fatal otherwise. Keeps the place.
Tensor tensor_reshape_1d(Tensor x, int64_t n0);
Tensor tensor_reshape_2d(Tensor x, int64_t n0, int64_t n1);
Tensor tensor_reshape_3d(Tensor x, int64_t n0, int64_t n1, int64_t n2);
// Elements [first, first + count) in memory order, as a tensor of rank 1. Fatal when out of range.
Tensor tensor_range(Tensor x, int64_t first, int64_t count);

// Typed access for code that runs on the host; fatal on another dtype and on device memory.
float *tensor_f32(Tensor x);
double *tensor_f64(Tensor x);
int32_t *tensor_i32(Tensor x);
int64_t *tensor_i64(Tensor x);
uint8_t *tensor_u8(Tensor x);
uint16_t *tensor_bf16(Tensor x); // raw bits: the upper half of an f32

// CHECK_SHAPE_1D(x, N), CHECK_SHAPE_2D(x, N, D), …: fatal with the tensor's name, its shape and the
// wanted one.
void check_shape(const char *name, const char *file, int line, Tensor x, DType dtype, int rank,
                 int64_t n0, int64_t n1, int64_t n2);
#define CHECK_SHAPE_1D(x, dtype, n0)     check_shape(#x, __FILE__, __LINE__, x, dtype, 1, n0, 1, 1)
#define CHECK_SHAPE_2D(x, dtype, n0, n1) check_shape(#x, __FILE__, __LINE__, x, dtype, 2, n0, n1, 1)
#define CHECK_SHAPE_3D(x, dtype, n0, n1, n2)                                                       \
    check_shape(#x, __FILE__, __LINE__, x, dtype, 3, n0, n1, n2)

#ifdef __cplusplus
}
#endif

#endif
