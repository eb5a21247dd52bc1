#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/storage.cuh"

enum { THREADS = 256, WARPS = THREADS / WARP };

// A warp owns a token, its lanes the slots, a warp apart. Bytes: 12 a logit, of which 8 again.
__global__ static void __launch_bounds__(THREADS)
    softmax_over_slots(float *combine, const float *logits, int64_t N, int64_t S) {
    int64_t n = (int64_t)blockIdx.x * WARPS + threadIdx.x / WARP;
    if (n >= N) return; // the whole warp
    int lane = (int)threadIdx.x % WARP;
    float largest = -INFINITY, sum = 0;
    for (int64_t s = lane; s < S; s += WARP) largest = fmaxf(largest, logits[n * S + s]);
    largest = warp_max(largest);
    for (int64_t s = lane; s < S; s += WARP) sum += expf(logits[n * S + s] - largest);
    float factor = 1.0f / warp_sum(sum);
    for (int64_t s = lane; s < S; s += WARP)
        combine[n * S + s] = expf(logits[n * S + s] - largest) * factor;
}

// What the warps of a block have of each of its columns, joined in their order.
template <typename Join> __device__ static inline float over_warps(float value, Join join) {
    __shared__ float of_warp[WARPS][WARP];
    int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP;
    __syncthreads();
    of_warp[warp][lane] = value;
    __syncthreads();
    value = of_warp[0][lane];
    for (int w = 1; w < WARPS; w++) value = join(value, of_warp[w][lane]);
    return value;
}
struct Larger {
    __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};
struct Sum {
    __device__ float operator()(float a, float b) const { return a + b; }
};

// A block owns 32 slots of a sequence, a warp every eighth of its tokens. Bytes: likewise.
__global__ static void __launch_bounds__(THREADS)
    softmax_over_tokens(float *dispatch, const float *logits, int64_t T, int64_t S) {
    int64_t s = (int64_t)blockIdx.x * WARP + threadIdx.x % WARP;
    int64_t first = (int64_t)blockIdx.y * T * S + s, warp = threadIdx.x / WARP;
    bool here = s < S;
    float largest = -INFINITY, sum = 0;
    for (int64_t t = warp; here && t < T; t += WARPS)
        largest = fmaxf(largest, logits[first + t * S]);
    largest = over_warps(largest, Larger());
    for (int64_t t = warp; here && t < T; t += WARPS) sum += expf(logits[first + t * S] - largest);
    float factor = 1.0f / over_warps(sum, Sum());
    for (int64_t t = warp; here && t < T; t += WARPS)
        dispatch[first + t * S] = expf(logits[first + t * S] - largest) * factor;
}

// As softmax_over_slots. Bytes: 12 a logit.
__global__ static void __launch_bounds__(THREADS)
    backward_over_slots(float *dlogits, const float *dcombine, const float *combine, int64_t N,
                        int64_t S) {
    int64_t n = (int64_t)blockIdx.x * WARPS + threadIdx.x / WARP;
    if (n >= N) return; // the whole warp
    int lane = (int)threadIdx.x % WARP;
    float mean = 0;
    for (int64_t s = lane; s < S; s += WARP) mean += combine[n * S + s] * dcombine[n * S + s];
    mean = warp_sum(mean);
    for (int64_t s = lane; s < S; s += WARP)
        dlogits[n * S + s] = combine[n * S + s] * (dcombine[n * S + s] - mean);
}

// As softmax_over_tokens; adds. Bytes: 16 a logit.
__global__ static void __launch_bounds__(THREADS)
    backward_over_tokens(float *dlogits, const float *ddispatch, const float *dispatch, int64_t T,
                         int64_t S) {
    int64_t s = (int64_t)blockIdx.x * WARP + threadIdx.x % WARP;
    int64_t first = (int64_t)blockIdx.y * T * S + s, warp = threadIdx.x / WARP;
    bool here = s < S;
    float mean = 0;
    for (int64_t t = warp; here && t < T; t += WARPS)
        mean += dispatch[first + t * S] * ddispatch[first + t * S];
    mean = over_warps(mean, Sum());
    for (int64_t t = warp; here && t < T; t += WARPS)
        dlogits[first + t * S] += dispatch[first + t * S] * (ddispatch[first + t * S] - mean);
}

static dim3 grid_of_columns(int64_t S, int64_t sequences) {
    CHECK(sequences <= 65535, "a grid of %lld sequences", (long long)sequences);
    return dim3(grid_of(ceil_div(S, WARP)).x, (unsigned)sequences);
}

extern "C" void slot_weights_forward_cuda(Device *dev, Tensor dispatch, Tensor combine,
                                          Tensor logits, int64_t T) {
    int64_t N = logits.shape[0], S = logits.shape[1];
    launch(dev, softmax_over_slots, grid_of(ceil_div(N, WARPS)), dim3(THREADS), 0,
           device_data<float>(combine), device_data<float>(logits), N, S);
    launch(dev, softmax_over_tokens, grid_of_columns(S, N / T), dim3(THREADS), 0,
           device_data<float>(dispatch), device_data<float>(logits), T, S);
}

extern "C" void slot_weights_backward_cuda(Device *dev, Tensor dlogits, Tensor ddispatch,
                                           Tensor dcombine, Tensor dispatch, Tensor combine,
                                           int64_t T) {
    int64_t N = dlogits.shape[0], S = dlogits.shape[1];
    launch(dev, backward_over_slots, grid_of(ceil_div(N, WARPS)), dim3(THREADS), 0,
           device_data<float>(dlogits), device_data<float>(dcombine), device_data<float>(combine),
           N, S);
    launch(dev, backward_over_tokens, grid_of_columns(S, N / T), dim3(THREADS), 0,
           device_data<float>(dlogits), device_data<float>(ddispatch), device_data<float>(dispatch),
           T, S);
}

enum { COUNTED_ROWS = 64 * WARPS }; // of a block

// A block owns 32 experts of COUNTED_ROWS tokens, a warp every eighth of these; whole numbers, so
// that no order matters. Bytes: 4 a weight.
__global__ static void __launch_bounds__(THREADS)
    add_slot_weights(unsigned long long *counts, const float *weights, int64_t n, int64_t S,
                     int64_t E) {
    int64_t e = (int64_t)blockIdx.y * WARP + threadIdx.x % WARP;
    int64_t first = (int64_t)blockIdx.x * COUNTED_ROWS, units = 0;
    int64_t end = first + COUNTED_ROWS < n ? first + COUNTED_ROWS : n;
    if (e >= E) return;
    for (int64_t row = first + threadIdx.x / WARP; row < end; row += WARPS) {
        float sum = 0;
        for (int64_t s = e; s < S; s += E) sum += weights[row * S + s];
        if (sum > 0) units += __float2ll_rn(sum * (float)SLOT_WEIGHT_UNITS);
    }
    atomicAdd(&counts[e], (unsigned long long)units);
}

extern "C" void count_slot_weights_cuda(Device *dev, Tensor counts, Tensor weights) {
    int64_t n = weights.shape[0], E = counts.shape[0];
    dim3 blocks(grid_of(ceil_div(n, COUNTED_ROWS)).x, (unsigned)ceil_div(E, WARP));
    launch(dev, add_slot_weights, blocks, dim3(THREADS), 0,
           reinterpret_cast<unsigned long long *>(device_data<int64_t>(counts)),
           device_data<float>(weights), n, weights.shape[1], E);
}
