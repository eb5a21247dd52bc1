#include "kernels/tensor.h"

#include <stdio.h>

size_t dtype_bytes(DType dtype) {
    switch (dtype) {
    case F32:
        return 4;
    case F64:
        return 8;
    case I32:
        return 4;
    case I64:
        return 8;
    case U8:
        return 1;
    case BF16:
    case F16:
        return 2;
    case I8:
        return 1;
    }
    die(EXIT_BUG, __FILE__, __LINE__, "unknown dtype %d", (int)dtype);
}

const char *dtype_name(DType dtype) {
    static const char *const names[] = {"f32", "f64", "i32", "i64", "u8", "bf16", "f16", "i8"};
    return (unsigned)dtype < sizeof names / sizeof *names ? names[dtype] : "?";
}

int64_t tensor_elements(Tensor x) {
    return x.shape[0] * x.shape[1] * x.shape[2] * x.shape[3];
}
size_t tensor_bytes(Tensor x) {
    return (size_t)tensor_elements(x) * dtype_bytes(x.dtype);
}

Tensor tensor_1d(void *data, DType dtype, int64_t n0) {
    return (Tensor){data, dtype, ON_HOST, 1, {n0, 1, 1, 1}};
}

Tensor tensor_2d(void *data, DType dtype, int64_t n0, int64_t n1) {
    return (Tensor){data, dtype, ON_HOST, 2, {n0, n1, 1, 1}};
}

Tensor tensor_3d(void *data, DType dtype, int64_t n0, int64_t n1, int64_t n2) {
    return (Tensor){data, dtype, ON_HOST, 3, {n0, n1, n2, 1}};
}

Tensor tensor_rows(Tensor x, int64_t first, int64_t count) {
    CHECK(first >= 0 && count >= 0 && first + count <= x.shape[0],
          "rows %lld to %lld of a tensor with %lld rows", (long long)first,
          (long long)(first + count), (long long)x.shape[0]);
    size_t row_bytes = (size_t)(x.shape[1] * x.shape[2] * x.shape[3]) * dtype_bytes(x.dtype);
    if (x.data) x.data = (char *)x.data + (size_t)first * row_bytes;
    x.shape[0] = count;
    return x;
}

static Tensor reshaped(Tensor x, int rank, int64_t n0, int64_t n1, int64_t n2) {
    CHECK(n0 * n1 * n2 == tensor_elements(x), "reshape of %lld elements to (%lld, %lld, %lld)",
          (long long)tensor_elements(x), (long long)n0, (long long)n1, (long long)n2);
    return (Tensor){x.data, x.dtype, x.place, rank, {n0, n1, n2, 1}};
}

Tensor tensor_reshape_1d(Tensor x, int64_t n0) {
    return reshaped(x, 1, n0, 1, 1);
}
Tensor tensor_reshape_2d(Tensor x, int64_t n0, int64_t n1) {
    return reshaped(x, 2, n0, n1, 1);
}
Tensor tensor_reshape_3d(Tensor x, int64_t n0, int64_t n1, int64_t n2) {
    return reshaped(x, 3, n0, n1, n2);
}

Tensor tensor_range(Tensor x, int64_t first, int64_t count) {
    return tensor_rows(tensor_reshape_1d(x, tensor_elements(x)), first, count);
}

static void *typed(Tensor x, DType dtype) {
    CHECK(x.dtype == dtype, "a %s tensor read as %s", dtype_name(x.dtype), dtype_name(dtype));
    CHECK(x.place == ON_HOST, "a %s tensor in device memory is read by the host",
          dtype_name(x.dtype));
    return x.data;
}

float *tensor_f32(Tensor x) {
    return typed(x, F32);
}
double *tensor_f64(Tensor x) {
    return typed(x, F64);
}
int32_t *tensor_i32(Tensor x) {
    return typed(x, I32);
}
int64_t *tensor_i64(Tensor x) {
    return typed(x, I64);
}
uint8_t *tensor_u8(Tensor x) {
    return typed(x, U8);
}
uint16_t *tensor_bf16(Tensor x) {
    return typed(x, BF16);
}

void check_shape(const char *name, const char *file, int line, Tensor x, DType dtype, int rank,
                 int64_t n0, int64_t n1, int64_t n2) {
    if (x.dtype == dtype && x.rank == rank && x.shape[0] == n0 && x.shape[1] == n1 &&
        x.shape[2] == n2)
        return;
    die(EXIT_BUG, file, line,
        "tensor %s is %s rank %d (%lld, %lld, %lld), expected %s rank %d (%lld, %lld, %lld)", name,
        dtype_name(x.dtype), x.rank, (long long)x.shape[0], (long long)x.shape[1],
        (long long)x.shape[2], dtype_name(dtype), rank, (long long)n0, (long long)n1,
        (long long)n2);
}
