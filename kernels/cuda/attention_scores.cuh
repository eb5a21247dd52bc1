// What happens to scores beside the softmax: caps, slopes, dropout, their maximum, and those of
// later keys. All of it is off in most models: kernels are compiled without (SHAPED false) and with
// it.
#ifndef MOETRAIN_KERNELS_CUDA_ATTENTION_SCORES_CUH
#define MOETRAIN_KERNELS_CUDA_ATTENTION_SCORES_CUH

#include "kernels/cuda/attention_tile.cuh"
#include "kernels/cuda/philox.cuh"

static inline bool is_shaped(Heads g) {
    return g.softcap > 0.0f || g.slopes || g.drop_below > 0 || g.largest || g.bidirectional;
}

__device__ static inline float slope_of_head(Heads g, int head) {
    return g.slopes ? g.slopes[head] : 0.0f;
}

// A score times g.scale, capped and with its slope; `distance` from the key to the query.
__device__ static inline float shaped_score(Heads g, float score, float slope, int distance) {
    if (g.softcap > 0.0f) score = g.softcap * tanhf(score / g.softcap);
    return score - slope * (float)abs(distance);
}

// The same of a score as the softmax takes it, before it is multiplied by g.scale. Hidden keys stay
// hidden.
__device__ static inline float shape_score(Heads g, float score, float slope, int distance) {
    if (score == -INFINITY) return score;
    return shaped_score(g, score * g.scale, slope, distance) / g.scale;
}

// The derivative of the cap at a score that it and the slope have shaped.
__device__ static inline float cap_derivative(Heads g, float shaped, float slope, int distance) {
    if (g.softcap <= 0.0f) return 1.0f;
    float t = (shaped + slope * (float)abs(distance)) / g.softcap;
    return 1.0f - t * t;
}

// What dropout multiplies the probability of a key by: `row` is the query's number in qkv, `key`
// counts from the beginning of the sequence. (AttentionDropout)
__device__ static inline float dropout_factor(Heads g, int64_t row, int head, int key) {
    if (g.drop_below == 0) return 1.0f;
    uint64_t pieces = (g.T + 7) / 8;
    uint64_t index = ((uint64_t)(g.first_token + row) * g.heads + head) * pieces + key / 8;
    uint4 words = philox_words(g.dropout, index);
    int at = key % 8 / 2;
    uint32_t word = at < 2 ? (at == 0 ? words.x : words.y) : (at == 2 ? words.z : words.w);
    return (word >> (key % 2 * 16) & 0xffffu) < g.drop_below ? 0.0f : g.kept_factor;
}

#endif
