// The z-loss of raw logits on the GPU.
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/storage.cuh"

enum { THREADS = 256, WARPS = THREADS / WARP };

// A warp owns a token. Bytes: 4 E + 8 a token. Sums over experts are butterflies.
__global__ static void __launch_bounds__(THREADS)
    sum_logits(float *lse, float *squares, const float *logits, int64_t N, int64_t E) {
    int64_t n = (int64_t)blockIdx.x * WARPS + threadIdx.x / WARP;
    if (n >= N) return; // the whole warp
    int lane = (int)threadIdx.x % WARP;
    const float *z = logits + n * E;
    float largest = -INFINITY, sum = 0, square = 0;
    for (int64_t e = lane; e < E; e += WARP) largest = fmaxf(largest, z[e]);
    largest = warp_max(largest);
    for (int64_t e = lane; e < E; e += WARP) {
        sum += expf(z[e] - largest);
        square += z[e] * z[e];
    }
    sum = warp_sum(sum);
    square = warp_sum(square);
    if (lane == 0) lse[n] = largest + logf(sum), squares[n] = square;
}

// A block owns a part, whose tokens it adds in block_sum's order. Bytes: 4 a token.
__global__ static void __launch_bounds__(THREADS)
    sum_squares_of_lse(double *lse2_sum, const float *lse, int64_t rows) {
    __shared__ double spare[WARP];
    double sum = 0;
    for (int64_t i = threadIdx.x; i < rows; i += THREADS) {
        double of = (double)lse[(int64_t)blockIdx.x * rows + i];
        sum += of * of;
    }
    sum = block_sum(sum, spare);
    if (threadIdx.x == 0) lse2_sum[blockIdx.x] = sum;
}

// A thread owns a logit. Bytes: 12 each, and 4 a token.
__global__ static void __launch_bounds__(THREADS)
    add_gradient(float *dlogits, const float *logits, const float *lse, float scale, int64_t count,
                 int64_t E) {
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= count) return;
    float of = lse[i / E];
    dlogits[i] += 2.0f * scale * of * expf(logits[i] - of);
}

extern "C" void logit_sums_cuda(Device *dev, Tensor lse, Tensor squares, Tensor lse2_sum,
                                Tensor logits) {
    int64_t N = logits.shape[0], E = logits.shape[1], parts = lse2_sum.shape[0];
    launch(dev, sum_logits, grid_of(ceil_div(N, WARPS)), dim3(THREADS), 0, device_data<float>(lse),
           device_data<float>(squares), device_data<float>(logits), N, E);
    launch(dev, sum_squares_of_lse, grid_of(parts), dim3(THREADS), 0, device_data<double>(lse2_sum),
           device_data<float>(lse), N / parts);
}

extern "C" void z_loss_backward_cuda(Device *dev, Tensor dlogits, Tensor logits, Tensor lse,
                                     float scale) {
    int64_t count = tensor_elements(logits);
    launch(dev, add_gradient, grid_of(ceil_div(count, THREADS)), dim3(THREADS), 0,
           device_data<float>(dlogits), device_data<float>(logits), device_data<float>(lse), scale,
           count, logits.shape[1]);
}
