// What both passes of the router on the GPU share: a token's row of logits in registers, its
// scores, and how the chosen ones become weights.
#ifndef MOETRAIN_KERNELS_CUDA_ROUTER_ROW_CUH
#define MOETRAIN_KERNELS_CUDA_ROUTER_ROW_CUH

#include "kernels/cuda/limits.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/storage.cuh"
#include "kernels/routing_ops.h"

// A token's logits live in the registers of its LANES lanes, PER_LANE in each: a vector of
// neighbours, the next belong to the next lane, and so on. A warp holds WARP / LANES tokens. Lanes
// without an expert hold -infinity.
enum { WARPS = 8, THREADS = WARPS * WARP }; // of a block

template <int PER_LANE> struct Neighbours { static const int COUNT = PER_LANE >= 4 ? 4 : 1; };

template <int LANES, int PER_LANE> __device__ static inline int expert_of(int j) {
    const int COUNT = Neighbours<PER_LANE>::COUNT;
    int lane = (int)threadIdx.x % LANES;
    return j / COUNT * (LANES * COUNT) + lane * COUNT + j % COUNT;
}

// Arenas align their tensors, so that E alone decides whether neighbours are read as a vector.
template <int LANES, int PER_LANE>
__device__ static inline void load_row(float *x, const float *row, int E, bool inside,
                                       float otherwise) {
    const int COUNT = Neighbours<PER_LANE>::COUNT;
#pragma unroll
    for (int j = 0; j < PER_LANE; j += COUNT) {
        int e = expert_of<LANES, PER_LANE>(j);
        if (COUNT == 4 && E % 4 == 0 && inside && e < E) {
            load_vector(x + j, row + e);
        } else {
#pragma unroll
            for (int i = 0; i < COUNT; i++) x[j + i] = inside && e + i < E ? row[e + i] : otherwise;
        }
    }
}

template <int LANES, int PER_LANE>
__device__ static inline void store_row(float *row, const float *x, int E) {
    const int COUNT = Neighbours<PER_LANE>::COUNT;
#pragma unroll
    for (int j = 0; j < PER_LANE; j += COUNT) {
        int e = expert_of<LANES, PER_LANE>(j);
        if (COUNT == 4 && E % 4 == 0) {
            if (e < E) store_vector(row + e, x + j);
        } else {
#pragma unroll
            for (int i = 0; i < COUNT; i++)
                if (e + i < E) row[e + i] = x[j + i];
        }
    }
}

// Over the LANES lanes of a token, the result in all of them; butterflies, so all get the same
// bits.
template <int LANES> __device__ static inline float token_sum(float value) {
#pragma unroll
    for (int distance = LANES / 2; distance > 0; distance /= 2)
        value += __shfl_xor_sync(ALL_LANES, value, distance);
    return value;
}
template <int LANES> __device__ static inline float token_max(float value) {
#pragma unroll
    for (int distance = LANES / 2; distance > 0; distance /= 2)
        value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, distance));
    return value;
}
template <int LANES> __device__ static inline uint32_t token_max_key(uint32_t value) {
    if (LANES == WARP) {
        value = __reduce_max_sync(ALL_LANES, value);
    } else {
#pragma unroll
        for (int distance = LANES / 2; distance > 0; distance /= 2)
            value = max(value, __shfl_xor_sync(ALL_LANES, value, distance));
    }
    return value;
}
template <int LANES> __device__ static inline uint32_t token_min_key(uint32_t value) {
    if (LANES == WARP) {
        value = __reduce_min_sync(ALL_LANES, value);
    } else {
#pragma unroll
        for (int distance = LANES / 2; distance > 0; distance /= 2)
            value = min(value, __shfl_xor_sync(ALL_LANES, value, distance));
    }
    return value;
}

// Integers that order as the logits do: NaN is 1, below all others; 0 stands for nothing. Both
// zeros are equal.
__device__ static inline uint32_t key_of(float z) {
    uint32_t bits = __float_as_uint(z + 0.0f); // -0 becomes +0
    if (isnan(z)) return 1;
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ static inline float logit_of(uint32_t key) { // of 1, NaN
    return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

// Scores as in cpu/router_scores.h: their logarithms, and the derivatives of these.
__device__ static inline float log_score(RouterScore score, float z) {
    float u = expf(-fabsf(z)), q;
    switch (score) {
    case SCORE_EXP:
        return z;
    case SCORE_SIGMOID:
        return fminf(z, 0.0f) - log1pf(u);
    case SCORE_SQRT_SOFTPLUS:
        q = u > 0.0f ? log1pf(u) / u : 1.0f;
        return 0.5f * (z < 0.0f ? z + logf(q) : logf(z + u * q));
    }
    return z;
}
__device__ static inline float score_slope(RouterScore score, float z) {
    float u = expf(-fabsf(z)), q;
    switch (score) {
    case SCORE_EXP:
        return 1.0f;
    case SCORE_SIGMOID:
        return (z > 0.0f ? u : 1.0f) / (1.0f + u);
    case SCORE_SQRT_SOFTPLUS:
        q = u > 0.0f ? log1pf(u) / u : 1.0f;
        return 0.5f / ((1.0f + u) * (z < 0.0f ? q : z + u * q));
    }
    return 1.0f;
}

// The kernels come in two: PLAIN ones know of exponentials that choose by themselves, and do not
// pay for other scores, a bias, groups and given choices with registers. The others take what
// registers they need: left to itself the compiler spills some, to have more blocks at once.
static inline bool is_plain(RouterRule rule, const float *bias, int64_t K) {
    return router_score(rule, K) == SCORE_EXP && !bias && !rule.given && rule.groups <= 1;
}

// How many of a token's choices one of its lanes holds: choice k is with lane k % LANES. Fewer
// lanes than a warp hold few experts, and therefore few choices.
template <int LANES> struct Slots {
    static const int COUNT = LANES == WARP ? (int)MOST_CHOICES / WARP : 1;
};

static inline int lanes_of_token(int64_t E) {
    return E <= 8 ? 8 : E <= 16 ? 16 : WARP;
}

#endif
