// Sinkhorn's iterations on the GPU.
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/limits.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/storage.cuh"

enum { THREADS = 256, WARPS = THREADS / WARP };

// A block owns a part. Its warps take rows: first their exponentials, then in each iteration their
// factors; then `width` threads take the columns, and the other groups of as many threads other
// rows of these. Bytes: 8 E a token and iteration, from L2. Determinism: a row's sum is a butterfly
// over lanes, a column's runs over every groups-th row in order and then over the groups in order;
// nothing depends on the number of parts.
__global__ static void __launch_bounds__(THREADS)
    balance_part(float *bias, const float *logits, float *a, double *c, int64_t rows, int E,
                 int64_t iterations, int width) {
    __shared__ double d[MOST_EXPERTS], partial[THREADS];
    int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP;
    int column = (int)threadIdx.x % width, group = (int)threadIdx.x / width;
    int groups = THREADS / width;
    int64_t first = blockIdx.x * rows;
    logits += first * E, a += first * E, c += first;
    for (int e = (int)threadIdx.x; e < E; e += THREADS) d[e] = 1;
    for (int64_t n = warp; n < rows; n += WARPS) {
        float best = -INFINITY;
        for (int e = lane; e < E; e += WARP) best = fmaxf(best, logits[n * E + e]);
        best = warp_max(best);
        for (int e = lane; e < E; e += WARP) a[n * E + e] = expf(logits[n * E + e] - best);
    }
    __syncthreads();
    for (int64_t i = 0; i < iterations; i++) {
        for (int64_t n = warp; n < rows; n += WARPS) {
            double sum = 0;
            for (int e = lane; e < E; e += WARP) sum += d[e] * (double)a[n * E + e];
            sum = warp_sum(sum);
            if (lane == 0) c[n] = 1 / ((double)rows * sum);
        }
        __syncthreads();
        for (int base = 0; base < E; base += width) {
            int e = base + column;
            double sum = 0;
            for (int64_t n = group; n < rows && e < E; n += groups)
                sum += c[n] * (double)a[n * E + e];
            partial[threadIdx.x] = sum;
            __syncthreads();
            if (group == 0 && e < E) {
                for (int g = 1; g < groups; g++) sum += partial[g * width + column];
                d[e] = 1 / ((double)E * (sum + SINKHORN_LEAST));
            }
            __syncthreads();
        }
    }
    for (int e = (int)threadIdx.x; e < E; e += THREADS) bias[blockIdx.x * E + e] = (float)log(d[e]);
}

extern "C" void sinkhorn_bias_cuda(Device *dev, Tensor bias, Tensor logits, Tensor a, Tensor c,
                                   int64_t iterations) {
    int64_t N = logits.shape[0], E = logits.shape[1], parts = bias.shape[0];
    CHECK_ROUTING(E, 1);
    int width = WARP;
    while (width < THREADS && width < E) width *= 2;
    launch(dev, balance_part, grid_of(parts), dim3(THREADS), 0, device_data<float>(bias),
           device_data<float>(logits), device_data<float>(a), device_data<double>(c), N / parts,
           (int)E, iterations, width);
}
