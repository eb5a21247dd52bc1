// What both passes of the router on the GPU share: a token's row of logits in registers, its
// scores, and how the chosen ones become weights.
#ifndef MOETRAIN_KERNELS_CUDA_ROUTER_ROW_CUH
#define MOETRAIN_KERNELS_CUDA_ROUTER_ROW_CUH

#include "kernels/cuda/limits.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/storage.cuh"
#include "kernels/routing_ops.h"

// A token's logits live in the registers of its LANES lanes, PER_LANE in each: VECTOR neighbouring
// ones, the next VECTOR belong to the next lane, and so on. A warp holds WARP / LANES tokens. Lanes
// without an expert hold -infinity.
enum { WARPS = 8, THREADS = WARPS * WARP }; // of a block

template <int LANES, int VECTOR> __device__ static inline int expert_of(int j) {
    int lane = (int)threadIdx.x % LANES;
    return j / VECTOR * (LANES * VECTOR) + lane * VECTOR + j % VECTOR;
}

template <int LANES, int PER_LANE, int VECTOR>
__device__ static inline void load_row(float *x, const float *row, int E, bool inside,
                                       float otherwise) {
#pragma unroll
    for (int j = 0; j < PER_LANE; j += VECTOR) {
        int e = expert_of<LANES, VECTOR>(j);
        if (inside && e < E) {
            if (VECTOR == 4) {
                load_vector(x + j, row + e);
            } else {
                x[j] = row[e];
            }
        } else {
#pragma unroll
            for (int i = 0; i < VECTOR; i++) x[j + i] = otherwise;
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

// log(sigmoid(z)), in both directions without loss.
__device__ static inline float log_sigmoid(float z) {
    return fminf(z, 0.0f) - log1pf(expf(-fabsf(z)));
}

// How the kernels weigh the chosen experts; the scores are the sigmoids of the logits in the last
// two, their exponentials otherwise.
typedef enum Weighing {
    OVER_ALL,    // score over the sum of all scores
    OVER_CHOSEN, // score over the sum of the chosen ones' scores
    SIGMOID_OVER_CHOSEN,
    SIGMOID_ALONE, // the score itself
} Weighing;

static inline Weighing weighing_of(RouterRule rule, int64_t K) {
    switch (rule.kind) {
    case SOFTMAX_TOPK:
    case HASH:
        return OVER_CHOSEN;
    case TOPK_SOFTMAX:
        return rule.normalize_top_k ? OVER_CHOSEN : OVER_ALL;
    case EXPERT_CHOICE:
        return OVER_ALL;
    case SIGMOID:
        return K > 1 ? SIGMOID_OVER_CHOSEN : SIGMOID_ALONE;
    }
    CHECK(false, "router %d", (int)rule.kind);
}

// The kernels come in two: PLAIN ones know of no sigmoids, no bias and no given choices, and do not
// pay for them with registers. The others take what registers they need: left to itself the
// compiler spills some, to have more blocks at once.
static inline bool is_plain(Weighing weighing, const float *bias, bool given) {
    return weighing < SIGMOID_OVER_CHOSEN && !bias && !given;
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
