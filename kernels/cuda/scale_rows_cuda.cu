#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/storage.cuh"

enum { THREADS = 256 };

// A thread owns an element. Bytes: 8 an element and, from the cache, 4.
__global__ static void __launch_bounds__(THREADS)
    scale_kernel(float *w, const float *factors, int64_t n, int64_t D) {
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < n) w[i] *= factors[i / D];
}

extern "C" void scale_rows_cuda(Device *dev, Tensor w, Tensor factors) {
    int64_t n = w.shape[0] * w.shape[1];
    launch(dev, scale_kernel, grid_of(ceil_div(n, THREADS)), THREADS, 0, device_data<float>(w),
           device_data<float>(factors), n, w.shape[1]);
}
