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

// With s the sigmoids, P = s / Σ s is the softmax of log s, whose derivative by z is 1 - s:
//   balance:  (1 - s_e) P_e (b_e - Σ b P)   z-loss: as above
// and, with c the scaling factor, the gate weights over the chosen, or a single one,
//   (1 - s_e) w_k (dw_k - Σ dw w / c)   or   (1 - s_e) w_k dw_k, for e = ids[k].
static void sigmoid_backward(float *dz, TokenBackward t, float factor) {
    float inner = 0.0f;
    for (int64_t k = 0; k < t.K && t.K > 1; k++) inner += t.dw[k] * t.w[k] / factor;
    for (int64_t e = 0; e < t.E; e++) dz[e] = log_sigmoid(t.z[e]);
    float best = max_of(dz, t.E), scale = 1.0f / sum_of_exp(dz, t.E, best);
    for (int64_t e = 0; e < t.E; e++) dz[e] = exp_f32(dz[e] - best) * scale;
    float shift = dot_product(t.balance, dz, t.E), of_z = 2.0f * t.z_scale * t.lse;
    for (int64_t e = 0; e < t.E; e++)
        dz[e] =
            sigmoid_f32(-t.z[e]) * dz[e] * (t.balance[e] - shift) + of_z * exp_f32(t.z[e] - t.lse);
    for (int64_t k = 0; k < t.K; k++)
        if (is_expert(t.ids[k], t.E))
            dz[t.ids[k]] += sigmoid_f32(-t.z[t.ids[k]]) * t.w[k] * (t.dw[k] - inner);
}

static void token_backward(float *dz, TokenBackward t, RouterRule rule) {
    switch (rule.kind) {
    case SOFTMAX_TOPK:
    case TOPK_SOFTMAX:
    case HASH:
    case EXPERT_CHOICE:
        softmax_backward(dz, t, over_chosen(rule));
        return;
    case SIGMOID:
        sigmoid_backward(dz, t, (float)rule.scaling_factor);
        return;
    }
    CHECK(false, "router %d", (int)rule.kind);
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
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < N; n++)
        token_backward(dz + n * E,
                       (TokenBackward){.dw = dw + n * K,
                                       .w = w + n * K,
                                       .ids = id + n * K,
                                       .z = z + n * E,
                                       .lse = lse_of[n],
                                       .balance = b + n / rows * E,
                                       .z_scale = z_scale,
                                       .E = E,
                                       .K = K},
                       rule);
}
