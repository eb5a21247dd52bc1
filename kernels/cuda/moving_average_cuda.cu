#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/update.cuh"

// A thread owns four consecutive elements. Reads both and writes the average once: 12 bytes an
// element, the minimum. No element depends on another.
__global__ void __launch_bounds__(THREADS)
    moving_average_kernel(float *average, const float *w, int64_t n, float decay) {
    int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * PER_THREAD;
    if (i >= n) return;
    float mean[PER_THREAD], weight[PER_THREAD], rest = 1.0f - decay;
    load_four(mean, average + i);
    load_four(weight, w + i);
#pragma unroll
    for (int j = 0; j < PER_THREAD; j++) mean[j] = decay * mean[j] + rest * weight[j];
    store_four(average + i, mean);
}

void moving_average_cuda(Device *dev, Tensor average, Tensor w, float decay) {
    int64_t n = average.shape[0];
    launch(dev, moving_average_kernel, grid_of(ceil_div(n, THREADS * PER_THREAD)), THREADS, 0,
           aligned_data<float>(average, "average"), aligned_data<float>(w, "w"), n, decay);
}
