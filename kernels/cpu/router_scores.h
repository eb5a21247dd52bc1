// The scores of the router's rules on the CPU, which both passes take.
#ifndef MOETRAIN_KERNELS_CPU_ROUTER_SCORES_H
#define MOETRAIN_KERNELS_CPU_ROUTER_SCORES_H

#include "kernels/cpu/vector_math.h"
#include "kernels/routing_ops.h"

static inline bool
over_chosen(RouterRule rule) { // the weights are a softmax over the chosen K alone
    return rule.kind == SOFTMAX_TOPK || rule.kind == HASH ||
           (rule.kind == TOPK_SOFTMAX && rule.normalize_top_k);
}

// Whether a choice is an expert: given ones need not be.
static inline bool is_expert(int32_t id, int64_t E) {
    return id >= 0 && id < E;
}

// log(sigmoid(z)) = min(z, 0) - log(1 + u) with u = e^-|z|. The last is 2 artanh(u / (2 + u)),
// whose series in r <= 1/3 ends within 2^-26 of it.
static inline float log_sigmoid(float z) {
    float u = exp_f32(-fabsf(z)), r = u / (2.0f + u), r2 = r * r;
    float series = 1.0f / 13;
    series = series * r2 + 1.0f / 11;
    series = series * r2 + 1.0f / 9;
    series = series * r2 + 1.0f / 7;
    series = series * r2 + 1.0f / 5;
    series = series * r2 + 1.0f / 3;
    series = series * r2 + 1.0f;
    return (z > 0.0f ? 0.0f : z) - 2.0f * r * series;
}

// The logarithms of the scores, of which a token's probabilities are the softmax: its logits
// themselves, or those of their sigmoids, in `room`.
static inline const float *log_scores(RouterKind kind, float *room, const float *z, int64_t count) {
    switch (kind) {
    case SOFTMAX_TOPK:
    case TOPK_SOFTMAX:
    case HASH:
    case EXPERT_CHOICE:
        return z;
    case SIGMOID:
        for (int64_t i = 0; i < count; i++) room[i] = log_sigmoid(z[i]);
        return room;
    }
    CHECK(false, "router %d", (int)kind);
}

#endif
