#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/limits.h"
#include "kernels/cuda/router_row.cuh"

// The score that router_forward adds a bias to.
__device__ static inline float score_of(float z, float lse, RouterScore score) {
    return expf(score == SCORE_EXP ? z - lse : log_score(score, z));
}

__device__ static inline int bin_of(float x) {
    int j = (int)((__float_as_uint(x) & 0x7fffffffu) >> QUANTILE_SHIFT) - QUANTILE_LEAST;
    j = j < 0 ? 0 : j < QUANTILE_HALF ? j : QUANTILE_HALF - 1;
    return x >= 0.0f ? QUANTILE_HALF + j : QUANTILE_HALF - 1 - j;
}

// A warp owns a token. It finds the largest of score + bias K + 1 times, each time below the last
// one (equal ones by the lower expert), and then counts every expert's score. Bytes: 4 E (K + 2) a
// token, mostly from the cache, and an atomic addition of integers for each, which are exact in any
// order.
__global__ static void __launch_bounds__(THREADS)
    count_scores(unsigned long long *counts, const float *logits, const float *lse_of,
                 const float *bias, int64_t N, int E, int64_t K, RouterScore score) {
    int64_t n = (int64_t)blockIdx.x * WARPS + threadIdx.x / WARP;
    int lane = (int)threadIdx.x % WARP;
    if (n >= N) return; // for the whole warp
    const float *z = logits + n * E;
    float lse = lse_of[n];
    unsigned long long last = ~0ull;
    for (int64_t k = 0; k <= K; k++) {
        unsigned long long best = 0;
        for (int e = lane; e < E; e += WARP) {
            unsigned long long key = key_of(score_of(z[e], lse, score) + bias[e]);
            key = key << 32 | (uint32_t)~e;
            if (key < last && key > best) best = key;
        }
#pragma unroll
        for (int distance = WARP / 2; distance > 0; distance /= 2) {
            unsigned long long other = __shfl_xor_sync(ALL_LANES, best, distance);
            best = other > best ? other : best;
        }
        last = best;
    }
    float enough = logit_of((uint32_t)(last >> 32));
    for (int e = lane; e < E; e += WARP)
        atomicAdd(&counts[(int64_t)e * QUANTILE_BINS + bin_of(score_of(z[e], lse, score) - enough)],
                  1ull);
}

extern "C" void quantile_counts_cuda(Device *dev, Tensor counts, Tensor logits, Tensor lse,
                                     Tensor bias, int64_t K, RouterRule rule) {
    int64_t N = logits.shape[0], E = logits.shape[1];
    CHECK_ROUTING(E, K);
    launch(dev, count_scores, grid_of(ceil_div(N, WARPS)), dim3(THREADS), 0,
           reinterpret_cast<unsigned long long *>(device_data<int64_t>(counts)),
           device_data<float>(logits), device_data<float>(lse), device_data<float>(bias), N, (int)E,
           K, router_score(rule, K));
}
