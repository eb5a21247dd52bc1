#include "kernels/cuda/tree_cuda.h"

#include "kernels/cuda/launch.cuh"

enum { TREE_THREADS = 256 };
static const int64_t TREE_BLOCKS = 1024;

// A thread owns elements thread, thread + all threads, …: neighbours in a warp, so that memory is
// read and written in whole lines. 3 sizeof(T) bytes an element. Each sum has two operands, so the
// order is no question.
template <typename T> __global__ static void tree_add_kernel(T *x, const T *y, int64_t count) {
    int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += step)
        x[i] += y[i];
}

template <typename T>
static void tree_add(void *x, const void *y, int64_t count, cudaStream_t stream) {
    int64_t blocks = ceil_div(count, TREE_THREADS);
    launch_on(stream, tree_add_kernel<T>, grid_of(blocks < TREE_BLOCKS ? blocks : TREE_BLOCKS),
              dim3(TREE_THREADS), 0, static_cast<T *>(x), static_cast<const T *>(y), count);
}

void tree_add_cuda(void *x, const void *y, int64_t count, DType dtype, cudaStream_t stream) {
    switch (dtype) {
    case F32:
        return tree_add<float>(x, y, count, stream);
    case F64:
        return tree_add<double>(x, y, count, stream);
    case I32:
        return tree_add<int32_t>(x, y, count, stream);
    case I64:
        return tree_add<int64_t>(x, y, count, stream);
    case U8:
    case BF16:
    case F16:
    case I8:
        die(EXIT_BUG, __FILE__, __LINE__, "no sum is defined for %s", dtype_name(dtype));
    }
}
