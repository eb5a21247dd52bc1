// The scores of the router's rules on the CPU, which both passes take. A score is a row: its
// logarithm, and the logarithm's derivative by the logit.
#ifndef MOETRAIN_KERNELS_CPU_ROUTER_SCORES_H
#define MOETRAIN_KERNELS_CPU_ROUTER_SCORES_H

#include "kernels/cpu/vector_math.h"
#include "kernels/routing_ops.h"

// Whether a choice is an expert: given ones need not be.
static inline bool is_expert(int32_t id, int64_t E) {
    return id >= 0 && id < E;
}

// log(1 + u) of 0 <= u <= 1 is 2 artanh(r), r = u / (2 + u); artanh(r) / r is a series in r² that
// ends here within 2^-26 for r <= 1/3.
static inline float artanh_over_r(float r) {
    float r2 = r * r, series = 1.0f / 13;
    series = series * r2 + 1.0f / 11;
    series = series * r2 + 1.0f / 9;
    series = series * r2 + 1.0f / 7;
    series = series * r2 + 1.0f / 5;
    series = series * r2 + 1.0f / 3;
    return series * r2 + 1.0f;
}

// log(sigmoid(z)) = min(z, 0) - log(1 + u) with u = e^-|z|.
static inline float log_sigmoid(float z) {
    float u = exp_f32(-fabsf(z)), r = u / (2.0f + u);
    return (z > 0.0f ? 0.0f : z) - 2.0f * r * artanh_over_r(r);
}

// softplus(z) = log(1 + e^z) is, with u = e^-|z| and q = log(1 + u) / u, z + u q for z >= 0 and
// e^z q below.
static inline float log_sqrt_softplus(float z) {
    float u = exp_f32(-fabsf(z)), r = u / (2.0f + u), q = 2.0f * artanh_over_r(r) / (2.0f + u);
    float tail = log_f32(z < 0.0f ? q : z + u * q);
    return 0.5f * (z < 0.0f ? z + tail : tail);
}
// sigmoid(z) / (2 softplus(z)): e^z cancels below 0.
static inline float slope_of_log_sqrt_softplus(float z) {
    float u = exp_f32(-fabsf(z)), r = u / (2.0f + u), q = 2.0f * artanh_over_r(r) / (2.0f + u);
    return 0.5f / ((1.0f + u) * (z < 0.0f ? q : z + u * q));
}

// The logarithms of the scores, of which a token's probabilities are the softmax: its logits
// themselves, or others in `room`.
static inline const float *log_scores(RouterScore score, float *room, const float *z,
                                      int64_t count) {
    switch (score) {
    case SCORE_EXP:
        return z;
    case SCORE_SIGMOID:
        for (int64_t i = 0; i < count; i++) room[i] = log_sigmoid(z[i]);
        return room;
    case SCORE_SQRT_SOFTPLUS:
        for (int64_t i = 0; i < count; i++) room[i] = log_sqrt_softplus(z[i]);
        return room;
    }
    CHECK(false, "score %d", (int)score);
}
static inline float log_score(RouterScore score, float z) {
    float room;
    return *log_scores(score, &room, &z, 1);
}

// Their derivatives by the logits, in `slope`.
static inline void score_slopes(RouterScore score, float *slope, const float *z, int64_t count) {
    switch (score) {
    case SCORE_EXP:
        for (int64_t i = 0; i < count; i++) slope[i] = 1.0f;
        return;
    case SCORE_SIGMOID:
        for (int64_t i = 0; i < count; i++) slope[i] = sigmoid_f32(-z[i]);
        return;
    case SCORE_SQRT_SOFTPLUS:
        for (int64_t i = 0; i < count; i++) slope[i] = slope_of_log_sqrt_softplus(z[i]);
        return;
    }
    CHECK(false, "score %d", (int)score);
}

#endif
