// Routing, capacity and permutation of reference.h.
#include "reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static double log_sum_exp(const float *z, int64_t E) {
    double largest = -INFINITY, sum = 0;
    for (int64_t e = 0; e < E; e++) largest = fmax(largest, (double)z[e]);
    for (int64_t e = 0; e < E; e++) sum += exp((double)z[e] - largest);
    return largest + log(sum);
}

static bool among(int64_t e, const int32_t *ids, int64_t count) {
    for (int64_t k = 0; k < count; k++)
        if (ids[k] == e) return true;
    return false;
}

static double chosen_weight_sum(const float *z, const int32_t *ids, double lse, int64_t K) {
    double sum = 0;
    for (int64_t k = 0; k < K; k++) sum += exp((double)z[ids[k]] - lse);
    return sum;
}

static bool normalised(RouterRule rule) {
    return rule.kind == SOFTMAX_TOPK || rule.normalize_top_k;
}

void reference_router_forward(int32_t *ids, double *weights, double *lse, double *prob_sum,
                              double *entropy_sum, double *lse2_sum, const float *logits,
                              RouterRule rule, int64_t N, int64_t E, int64_t K) {
    for (int64_t e = 0; e < E; e++) prob_sum[e] = 0;
    *entropy_sum = *lse2_sum = 0;
    for (int64_t n = 0; n < N; n++) {
        const float *z = logits + n * E;
        int32_t *chosen = ids + n * K;
        for (int64_t k = 0; k < K; k++) { // K times the largest that is left
            int64_t best = -1;
            for (int64_t e = 0; e < E; e++)
                if (!among(e, chosen, k) && (best < 0 || z[e] > z[best])) best = e;
            chosen[k] = (int32_t)best;
        }
        lse[n] = log_sum_exp(z, E);
        double total = normalised(rule) ? chosen_weight_sum(z, chosen, lse[n], K) : 1;
        for (int64_t k = 0; k < K; k++)
            weights[n * K + k] = exp((double)z[chosen[k]] - lse[n]) / total;
        for (int64_t e = 0; e < E; e++) {
            double p = exp((double)z[e] - lse[n]);
            prob_sum[e] += p;
            *entropy_sum -= p * ((double)z[e] - lse[n]);
        }
        *lse2_sum += lse[n] * lse[n];
    }
}

// Through the Jacobian of each softmax, element by element.
void reference_router_backward(double *dlogits, const float *dweights, const int32_t *ids,
                               const float *logits, RouterRule rule, const float *balance,
                               double z_scale, int64_t N, int64_t E, int64_t K) {
    for (int64_t n = 0; n < N; n++) {
        const float *z = logits + n * E, *dw = dweights + n * K;
        const int32_t *chosen = ids + n * K;
        double lse = log_sum_exp(z, E);
        double total = normalised(rule) ? chosen_weight_sum(z, chosen, lse, K) : 1;
        for (int64_t e = 0; e < E; e++) {
            double p_e = exp((double)z[e] - lse), sum = 2 * z_scale * lse * p_e;
            for (int64_t i = 0; i < E; i++) {
                double p_i = exp((double)z[i] - lse);
                sum += (double)balance[i] * p_i * ((i == e ? 1 : 0) - p_e);
            }
            // ∂w_k/∂z_e = w_k ([e = ids_k] - share of e in the softmax that made w)
            double share = p_e / total;
            if (normalised(rule) && !among(e, chosen, K)) share = 0;
            for (int64_t k = 0; k < K; k++) {
                double w_k = exp((double)z[chosen[k]] - lse) / total;
                sum += (double)dw[k] * w_k * ((chosen[k] == e ? 1 : 0) - share);
            }
            dlogits[n * E + e] = sum;
        }
    }
}

// Does choice a come before choice b in the queue for an expert?
static bool before(int64_t a, int64_t b, DropPolicy policy, const float *weights, int64_t K,
                   RngStream stream, int64_t first_token) {
    if (policy == DROP_POSITION && a % K != b % K) return a % K < b % K;
    if (policy == DROP_PROBABILITY && weights[a] != weights[b]) return weights[a] > weights[b];
    if (policy == DROP_RANDOM) {
        uint32_t of_a = rng_u32(stream, (uint64_t)(first_token * K + a));
        uint32_t of_b = rng_u32(stream, (uint64_t)(first_token * K + b));
        if (of_a != of_b) return of_a < of_b;
    }
    return a < b;
}

// A choice is kept when fewer than `capacity` choices of its expert come before it.
void reference_capacity_assign(uint8_t *kept, int32_t *routed, int32_t *dropped, const int32_t *ids,
                               const float *weights, int64_t N, int64_t K, int64_t E,
                               int64_t capacity, DropPolicy policy, RngStream stream,
                               int64_t first_token) {
    for (int64_t e = 0; e < E; e++) routed[e] = dropped[e] = 0;
    for (int64_t a = 0; a < N * K; a++) {
        int64_t ahead = 0;
        for (int64_t b = 0; b < N * K; b++)
            if (b != a && ids[b] == ids[a])
                ahead += before(b, a, policy, weights, K, stream, first_token);
        kept[a] = capacity < 0 || ahead < capacity;
        routed[ids[a]]++;
        dropped[ids[a]] += !kept[a];
    }
}

void reference_permutation_plan(int32_t *slot_row, int32_t *row_choice, int32_t *counts,
                                const int32_t *ids, const uint8_t *kept, int64_t N, int64_t K,
                                int64_t E, int64_t parts) {
    int32_t row = 0;
    for (int64_t c = 0; c < N * K; c++) slot_row[c] = row_choice[c] = -1;
    for (int64_t e = 0; e < E; e++)
        for (int64_t p = 0; p < parts; p++) {
            counts[e * parts + p] = 0;
            for (int64_t c = 0; c < N * K; c++) {
                if (ids[c] != e || !kept[c] || c / K / (N / parts) != p) continue;
                counts[e * parts + p]++;
                slot_row[c] = row;
                row_choice[row++] = (int32_t)c;
            }
        }
}

void reference_combine_forward(double *out, const float *y, const int32_t *slot_row,
                               const float *weights, int64_t N, int64_t D, int64_t K) {
    for (int64_t n = 0; n < N; n++)
        for (int64_t d = 0; d < D; d++) {
            out[n * D + d] = 0;
            for (int64_t c = n * K; c < (n + 1) * K; c++)
                if (slot_row[c] >= 0)
                    out[n * D + d] +=
                        (weights ? (double)weights[c] : 1) * (double)y[slot_row[c] * D + d];
        }
}

void reference_combine_backward(double *dy, double *dweights, const float *dout, const float *y,
                                const int32_t *slot_row, const float *weights, int64_t N, int64_t D,
                                int64_t K) {
    for (int64_t n = 0; n < N; n++)
        for (int64_t c = n * K; c < (n + 1) * K; c++) {
            dweights[c] = 0;
            if (slot_row[c] < 0) continue;
            for (int64_t d = 0; d < D; d++) {
                dweights[c] += (double)dout[n * D + d] * (double)y[slot_row[c] * D + d];
                dy[slot_row[c] * D + d] = (double)weights[c] * (double)dout[n * D + d];
            }
        }
}

static double kept_sum(const float *weights, const uint8_t *kept, int64_t K) {
    double sum = 0;
    for (int64_t k = 0; k < K; k++) sum += kept[k] ? (double)weights[k] : 0;
    return sum;
}

void reference_renormalize_forward(double *scaled, const float *weights, const uint8_t *kept,
                                   int64_t N, int64_t K) {
    for (int64_t n = 0; n < N; n++) {
        double sum = kept_sum(weights + n * K, kept + n * K, K);
        for (int64_t c = n * K; c < (n + 1) * K; c++)
            scaled[c] = kept[c] ? (double)weights[c] / sum : 0;
    }
}

// Jacobian of s_k = w_k / S: ∂s_k/∂w_j = [k = j] / S - w_k / S².
void reference_renormalize_backward(double *dweights, const float *dscaled, const float *weights,
                                    const uint8_t *kept, int64_t N, int64_t K) {
    for (int64_t n = 0; n < N; n++) {
        double sum = kept_sum(weights + n * K, kept + n * K, K);
        for (int64_t j = n * K; j < (n + 1) * K; j++) {
            dweights[j] = 0;
            if (!kept[j]) continue;
            for (int64_t k = n * K; k < (n + 1) * K; k++)
                if (kept[k])
                    dweights[j] += (double)dscaled[k] *
                                   ((k == j ? 1 / sum : 0) - (double)weights[k] / (sum * sum));
        }
    }
}
