#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/router_scores.h"

// What one token's gradient is made of.
typedef struct TokenBackward {
    const float *dw, *w; // (K)
    const int32_t *ids;  // (K)
    const float *z;      // (E)
    float lse;
    const float *balance; // (E)
    float z_scale;
    int64_t E, K;
} TokenBackward;

// With p the softmax over all E, the terms on P and lse have the gradients
//   balance:  p_e (b_e - Σ b p)        z-loss:  2 z_scale lse p_e
// and the gate weights, as a softmax over the chosen or over all,
//   w_k (dw_k - Σ dw w) for e = ids[k]   or   p_e ([e = ids[k]] dw_k - Σ dw w).
static void softmax_backward(float *dz, TokenBackward t, bool chosen_only) {
    float inner = 0.0f;
    for (int64_t k = 0; k < t.K; k++) inner += t.dw[k] * t.w[k];
    for (int64_t e = 0; e < t.E; e++) dz[e] = exp_f32(t.z[e] - t.lse);
    float shift = 2.0f * t.z_scale * t.lse - dot_product(t.balance, dz, t.E);
    if (!chosen_only) shift -= inner;
    for (int64_t e = 0; e < t.E; e++) dz[e] *= t.balance[e] + shift;
    for (int64_t k = 0; k < t.K; k++)
        if (is_expert(t.ids[k], t.E))
            dz[t.ids[k]] += t.w[k] * (chosen_only ? t.dw[k] - inner : t.dw[k]);
}

// With s the scores and r = ∂ log s / ∂z, P = s / Σ s is the softmax of log s:
//   balance:  r_e P_e (b_e - Σ b P)   z-loss: as above
// and, with c the scaling factor, the gate weights over all, over the chosen or alone,
//   r_k w_k (dw_k - Σ dw w / c)   or   r_k w_k dw_k, for e = ids[k].
static void score_backward(float *dz, TokenBackward t, RouterScore score, RouterWeighing weighing,
                           float factor) {
    enum { COUNT = 256 };
    float inner = 0.0f, room[COUNT];
    for (int64_t k = 0; k < t.K && weighing == WEIGH_OVER_CHOSEN; k++)
        inner += t.dw[k] * t.w[k] / factor;
    const float *log_of = log_scores(score, dz, t.z, t.E);
    float best = max_of(log_of, t.E), scale = 1.0f / sum_of_exp(log_of, t.E, best);
    for (int64_t e = 0; e < t.E; e++) dz[e] = exp_f32(log_of[e] - best) * scale;
    float shift = dot_product(t.balance, dz, t.E), of_z = 2.0f * t.z_scale * t.lse;
    for (int64_t first = 0; first < t.E; first += COUNT) {
        int64_t count = t.E - first < COUNT ? t.E - first : COUNT;
        score_slopes(score, room, t.z + first, count);
        for (int64_t i = 0, e = first; i < count; i++, e++)
            dz[e] = room[i] * dz[e] * (t.balance[e] - shift) + of_z * exp_f32(t.z[e] - t.lse);
    }
    for (int64_t k = 0; k < t.K; k++) {
        if (!is_expert(t.ids[k], t.E)) continue;
        score_slopes(score, room, t.z + t.ids[k], 1);
        dz[t.ids[k]] += room[0] * t.w[k] * (t.dw[k] - inner);
    }
}

void router_backward_cpu(Device *dev, Tensor dlogits, Tensor dweights, Routing routing,
                         Tensor logits, RouterRule rule, Tensor balance, float z_scale) {
    int64_t N = logits.shape[0], E = logits.shape[1], K = routing.ids.shape[1];
    int64_t rows = N / balance.shape[0];
    const float *z = tensor_f32(logits), *dw = tensor_f32(dweights);
    const float *w = tensor_f32(routing.weights), *lse_of = tensor_f32(routing.lse);
    const float *b = tensor_f32(balance);
    const int32_t *id = tensor_i32(routing.ids);
    float *dz = tensor_f32(dlogits);
    RouterScore score = router_score(rule, K);
    RouterWeighing weighing = router_weighing(rule, K);
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < N; n++) {
        TokenBackward token = {.dw = dw + n * K,
                               .w = w + n * K,
                               .ids = id + n * K,
                               .z = z + n * E,
                               .lse = lse_of[n],
                               .balance = b + n / rows * E,
                               .z_scale = z_scale,
                               .E = E,
                               .K = K};
        if (score == SCORE_EXP)
            softmax_backward(dz + n * E, token, weighing == WEIGH_OVER_CHOSEN);
        else
            score_backward(dz + n * E, token, score, weighing, (float)rule.scaling_factor);
    }
}
