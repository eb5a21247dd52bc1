// The smooth load of noisy logits on the GPU.
#include "kernels/cuda/balance_sums.cuh"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/normal.cuh"
#include "kernels/cuda/router_row.cuh"

enum { TOKENS = 64 }; // of a block

typedef struct LoadArguments {
    const float *raw, *noisy, *scale; // (N, E)
    const float *slopes;              // (parts, E)
    unsigned long long *sums;         // (parts, E)
    float *dlogits, *dscale;          // (N, E)
    int64_t N, rows, chunks;          // tokens; those of a part; blocks of a part
    int E, K;
} LoadArguments;

// Larger for what is chosen before: the larger logit, then the lower expert. 0 is nothing.
__device__ static inline unsigned long long rank_of(float noisy, int e) {
    return (unsigned long long)key_of(noisy) << 32 | (0xffffffffu - (unsigned)e);
}
__device__ static inline int expert_of_rank(unsigned long long rank) {
    return (int)(0xffffffffu - (unsigned)rank);
}

// The largest rank of a token's experts that is below `than`, in all lanes of the warp.
__device__ static inline unsigned long long next_rank(const float *noisy, int E,
                                                      unsigned long long than) {
    unsigned long long best = 0;
    for (int e = (int)threadIdx.x % WARP; e < E; e += WARP) {
        unsigned long long rank = rank_of(noisy[e], e);
        if (rank < than && rank > best) best = rank;
    }
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        unsigned long long other = __shfl_xor_sync(ALL_LANES, best, distance);
        if (other > best) best = other;
    }
    return best;
}

// Of a token: the last expert that it chooses, and the first that it does not.
typedef struct Border {
    unsigned long long rank; // of the last one
    int last, next;
} Border;
__device__ static inline Border border_of(const float *noisy, int E, int K) {
    unsigned long long rank = ~0ull;
    for (int k = 0; k < K; k++) rank = next_rank(noisy, E, rank);
    return {rank, expert_of_rank(rank), expert_of_rank(next_rank(noisy, E, rank))};
}

__device__ static inline float deviation_of(float scale) {
    float deviation = fmaxf(scale, 0.0f) + log1pf(expf(-fabsf(scale)));
    return fmaxf(deviation, (float)NOISE_LEAST);
}
__device__ static inline float sigmoid_of(float x) {
    return 1.0f / (1.0f + expf(-x));
}

// A block owns TOKENS tokens of a part, a warp one at a time, and adds in shared memory, then what
// it has found; whole numbers, so that no order matters. Bytes: 12 E a token, the noisy logits K
// times more from the caches.
__global__ static void __launch_bounds__(THREADS) load_tokens(LoadArguments a) {
    DYNAMIC_SHARED(unsigned long long, found);
    for (int e = (int)threadIdx.x; e < a.E; e += THREADS) found[e] = 0;
    __syncthreads();
    int64_t part = blockIdx.x / a.chunks, first = blockIdx.x % a.chunks * TOKENS;
    int64_t end = first + TOKENS < a.rows ? first + TOKENS : a.rows;
    for (int64_t i = first + threadIdx.x / WARP; i < end; i += WARPS) {
        int64_t row = (part * a.rows + i) * a.E;
        const float *noisy = a.noisy + row;
        Border at = border_of(noisy, a.E, a.K);
        float last = noisy[at.last], next = noisy[at.next];
        for (int e = (int)threadIdx.x % WARP; e < a.E; e += WARP) {
            float other = rank_of(noisy[e], e) >= at.rank ? next : last;
            float u = (a.raw[row + e] - other) / deviation_of(a.scale[row + e]);
            atomicAdd(&found[e], balance_units(normal_share(u)));
        }
    }
    __syncthreads();
    for (int e = (int)threadIdx.x; e < a.E; e += THREADS)
        if (found[e] > 0) atomicAdd(&a.sums[part * a.E + e], found[e]);
}

// A warp owns a token; the formulas are noisy_load_cpu.c's. Bytes: 28 E a token, the noisy logits K
// times more from the caches. Sums over experts are butterflies.
__global__ static void __launch_bounds__(THREADS) unload_tokens(LoadArguments a) {
    int64_t n = (int64_t)blockIdx.x * WARPS + threadIdx.x / WARP, row = n * a.E;
    if (n >= a.N) return; // the whole warp
    int lane = (int)threadIdx.x % WARP;
    const float *z = a.raw + row, *h = a.noisy + row, *s = a.scale + row;
    const float *slope = a.slopes + n / a.rows * a.E;
    float *dz = a.dlogits + row, *ds = a.dscale + row;
    Border at = border_of(h, a.E, a.K);
    float last = h[at.last], next = h[at.next], of_last = 0, of_next = 0;
    for (int e = lane; e < a.E; e += WARP) {
        bool chosen = rank_of(h[e], e) >= at.rank;
        float deviation = deviation_of(s[e]), u = (z[e] - (chosen ? next : last)) / deviation;
        float d = slope[e] * normal_density(u) / deviation;
        dz[e] += d;
        if (deviation > (float)NOISE_LEAST) ds[e] -= d * u * sigmoid_of(s[e]);
        of_next -= chosen ? d : 0.0f;
        of_last -= chosen ? 0.0f : d;
    }
    of_last = warp_sum(of_last);
    of_next = warp_sum(of_next);
    for (int i = 0; i < 2; i++) { // by the lane that has the expert
        int e = i == 0 ? at.last : at.next;
        float d = i == 0 ? of_last : of_next;
        if (e % WARP != lane) continue;
        dz[e] += d;
        ds[e] += d * ((h[e] - z[e]) / deviation_of(s[e])) * sigmoid_of(s[e]);
    }
}

static LoadArguments arguments_of(NoisyLogits logits, int64_t parts, int64_t K) {
    int64_t N = logits.raw.shape[0], E = logits.raw.shape[1], rows = N / parts;
    CHECK_ROUTING(E, K);
    LoadArguments a = {};
    a.raw = device_data<float>(logits.raw);
    a.noisy = device_data<float>(logits.noisy);
    a.scale = device_data<float>(logits.scale);
    a.N = N, a.rows = rows, a.chunks = ceil_div(rows, TOKENS);
    a.E = (int)E, a.K = (int)K;
    return a;
}

extern "C" void noisy_load_sums_cuda(Device *dev, Tensor sums, NoisyLogits logits, int64_t K) {
    LoadArguments a = arguments_of(logits, sums.shape[0], K);
    a.sums = reinterpret_cast<unsigned long long *>(device_data<int64_t>(sums));
    CUDA_CHECK(cudaMemsetAsync(sums.data, 0, tensor_bytes(sums), cuda_state(dev)->compute));
    launch(dev, load_tokens, grid_of(sums.shape[0] * a.chunks), dim3(THREADS),
           (size_t)a.E * sizeof(unsigned long long), a);
}

extern "C" void noisy_load_backward_cuda(Device *dev, Tensor dlogits, Tensor dscale, Tensor slopes,
                                         NoisyLogits logits, int64_t K) {
    LoadArguments a = arguments_of(logits, slopes.shape[0], K);
    a.dlogits = device_data<float>(dlogits);
    a.dscale = device_data<float>(dscale);
    a.slopes = device_data<float>(slopes);
    launch(dev, unload_tokens, grid_of(ceil_div(a.N, WARPS)), dim3(THREADS), 0, a);
}
