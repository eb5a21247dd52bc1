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

// Given choices need not be experts.
static bool is_expert(int32_t id, int64_t E) {
    return id >= 0 && id < E;
}

static bool among(int64_t e, const int32_t *ids, int64_t count) {
    for (int64_t k = 0; k < count; k++)
        if (ids[k] == e) return true;
    return false;
}

static bool is_sigmoid(RouterRule rule, int64_t K) {
    return rule.kind == SIGMOID || (rule.kind == SINKHORN && K == 1);
}
static bool is_softmax(RouterRule rule, int64_t K) {
    return rule.kind != SQRT_SOFTPLUS && !is_sigmoid(rule, K);
}
static double softplus(double z) {
    return fmax(z, 0) + log1p(exp(-fabs(z)));
}

// What an expert's logit is worth, over a factor that all of a token have in common.
static double score(double z, RouterRule rule, double lse, int64_t K) {
    if (is_sigmoid(rule, K)) return 1 / (1 + exp(-z));
    return rule.kind == SQRT_SOFTPLUS ? sqrt(softplus(z)) : exp(z - lse);
}
// Its derivative by z over the score itself, lse held fast.
static double slope(double z, RouterRule rule, int64_t K) {
    if (is_sigmoid(rule, K)) return 1 / (1 + exp(z));
    return rule.kind == SQRT_SOFTPLUS ? 1 / (1 + exp(-z)) / (2 * softplus(z)) : 1;
}

// Whether the scores of the chosen are divided by their sum.
static bool is_over_chosen(RouterRule rule, int64_t K) {
    switch (rule.kind) {
    case SOFTMAX_TOPK:
    case NOISY_TOPK:
    case HASH:
        return true;
    case TOPK_SOFTMAX:
        return rule.normalize_top_k;
    case SIGMOID:
    case SQRT_SOFTPLUS:
        return K > 1 && !rule.alone;
    case SINKHORN:
    case EXPERT_CHOICE:
        return false;
    }
    CHECK(false, "router %d", (int)rule.kind);
}
// What they are divided by; 1 where the factor in common is that already.
static double weight_divisor(const float *z, const int32_t *ids, RouterRule rule, double lse,
                             int64_t E, int64_t K) {
    double sum = 0;
    if (!is_over_chosen(rule, K)) return 1;
    for (int64_t k = 0; k < K; k++)
        if (is_expert(ids[k], E)) sum += score((double)z[ids[k]], rule, lse, K);
    return sum;
}
static double weight_factor(RouterRule rule) {
    return rule.kind == SIGMOID || rule.kind == SQRT_SOFTPLUS ? rule.scaling_factor : 1;
}

double reference_key(const float *z, const float *bias, RouterRule rule, double lse, int64_t e,
                     int64_t K) {
    double b = bias ? (double)bias[e] : 0;
    bool by_score = rule.groups > 1 || (bias && rule.kind != SINKHORN);
    return by_score ? score((double)z[e], rule, lse, K) + b : (double)z[e] + b;
}

static int descending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

double reference_group_score(const double *keys, RouterRule rule, int64_t size, int64_t K) {
    double *sorted = malloc((size_t)size * sizeof *sorted), sum = 0;
    CHECK(sorted, "no memory for %lld keys", (long long)size);
    memcpy(sorted, keys, (size_t)size * sizeof *sorted);
    qsort(sorted, (size_t)size, sizeof *sorted, descending);
    int64_t most = K / rule.top_groups;
    for (int64_t i = 0; i < size && (i == 0 || i < most); i++) sum += sorted[i];
    free(sorted);
    return sum;
}

// The keys of a token's experts; those in groups that are not among the best are -infinity.
static void keys_of(double *keys, const float *z, const float *bias, RouterRule rule, double lse,
                    int64_t E, int64_t K) {
    for (int64_t e = 0; e < E; e++) keys[e] = reference_key(z, bias, rule, lse, e, K);
    if (rule.groups <= 1) return;
    int64_t size = E / rule.groups;
    double group[ROUTER_GROUPS_MAX];
    for (int64_t g = 0; g < rule.groups; g++)
        group[g] = reference_group_score(keys + g * size, rule, size, K);
    for (int64_t g = 0; g < rule.groups; g++) {
        int64_t better = 0;
        for (int64_t h = 0; h < rule.groups; h++)
            better += group[h] > group[g] || (group[h] == group[g] && h < g);
        for (int64_t e = g * size; e < (g + 1) * size && better >= rule.top_groups; e++)
            keys[e] = -INFINITY;
    }
}

void reference_router_forward(int32_t *ids, double *weights, double *lse, double *prob_sum,
                              double *entropy_sum, double *lse2_sum, const float *logits,
                              const float *bias, RouterRule rule, int64_t N, int64_t E, int64_t K) {
    for (int64_t e = 0; e < E; e++) prob_sum[e] = 0;
    *entropy_sum = *lse2_sum = 0;
    double *keys = malloc((size_t)E * sizeof *keys);
    CHECK(keys, "no memory for %lld keys", (long long)E);
    for (int64_t n = 0; n < N; n++) {
        const float *z = logits + n * E;
        int32_t *chosen = ids + n * K;
        lse[n] = log_sum_exp(z, E);
        keys_of(keys, z, bias, rule, lse[n], E, K);
        for (int64_t k = 0; k < K && !rule.given; k++) { // K times the largest that is left
            int64_t best = -1;
            for (int64_t e = 0; e < E; e++)
                if (!among(e, chosen, k) && (best < 0 || keys[e] > keys[best])) best = e;
            chosen[k] = (int32_t)best;
        }
        double divisor = weight_divisor(z, chosen, rule, lse[n], E, K), all = 0;
        double factor = weight_factor(rule);
        for (int64_t k = 0; k < K; k++)
            weights[n * K + k] =
                is_expert(chosen[k], E)
                    ? factor * score((double)z[chosen[k]], rule, lse[n], K) / divisor
                    : 0;
        for (int64_t e = 0; e < E; e++) all += score((double)z[e], rule, lse[n], K);
        for (int64_t e = 0; e < E; e++) {
            double p = score((double)z[e], rule, lse[n], K) / all;
            prob_sum[e] += p;
            *entropy_sum -= p > 0 ? p * log(p) : 0;
        }
        *lse2_sum += lse[n] * lse[n];
    }
    free(keys);
}

// Through the Jacobian of each quotient, element by element.
void reference_router_backward(double *dlogits, const float *dweights, const int32_t *ids,
                               const float *logits, RouterRule rule, const float *balance,
                               double z_scale, int64_t N, int64_t E, int64_t K) {
    for (int64_t n = 0; n < N; n++) {
        const float *z = logits + n * E, *dw = dweights + n * K;
        const int32_t *chosen = ids + n * K;
        double lse = log_sum_exp(z, E), all = 0;
        double divisor = weight_divisor(z, chosen, rule, lse, E, K);
        double factor = weight_factor(rule);
        for (int64_t e = 0; e < E; e++) all += score((double)z[e], rule, lse, K);
        for (int64_t e = 0; e < E; e++) {
            double s_e = score((double)z[e], rule, lse, K), rise = slope((double)z[e], rule, K);
            double p_e = s_e / all;
            double sum = 2 * z_scale * lse * exp((double)z[e] - lse);
            for (int64_t i = 0; i < E; i++) {
                double p_i = score((double)z[i], rule, lse, K) / all;
                sum += (double)balance[i] * p_i * ((i == e ? 1 : 0) - p_e) * rise;
            }
            // ∂w_k/∂z_e = w_k ([e = ids_k] - share of e in what w is divided by) · slope; a sigmoid
            // of its own is divided by nothing, a softmax over all by all.
            double share = s_e / divisor;
            bool over_chosen = is_over_chosen(rule, K),
                 over_all = !over_chosen && is_softmax(rule, K);
            if (!over_all && !(over_chosen && among(e, chosen, K))) share = 0;
            for (int64_t k = 0; k < K; k++) {
                if (!is_expert(chosen[k], E)) continue;
                double w_k = factor * score((double)z[chosen[k]], rule, lse, K) / divisor;
                sum += (double)dw[k] * w_k * ((chosen[k] == e ? 1 : 0) - share) * rise;
            }
            dlogits[n * E + e] = sum;
        }
    }
}

// Does choice a come before choice b in the queue for an expert?
static bool before(int64_t a, int64_t b, DropPolicy policy, const float *weights, int64_t K,
                   RngStream stream, int64_t first_token) {
    uint32_t of_a, of_b;
    switch (policy) {
    case DROP_POSITION:
        if (a % K != b % K) return a % K < b % K;
        break;
    case DROP_PROBABILITY:
        if (weights[a] != weights[b]) return weights[a] > weights[b];
        break;
    case DROP_RANDOM:
        of_a = rng_u32(stream, (uint64_t)(first_token * K + a));
        of_b = rng_u32(stream, (uint64_t)(first_token * K + b));
        if (of_a != of_b) return of_a < of_b;
        break;
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
                                const int32_t *ids, const uint8_t *kept, const int32_t *places,
                                int64_t N, int64_t K, int64_t E, int64_t parts,
                                int64_t padded_rows) {
    int32_t row = 0;
    for (int64_t c = 0; c < N * K; c++) slot_row[c] = -1;
    for (int64_t r = 0; r < (padded_rows < 0 ? N * K : E * parts * padded_rows); r++)
        row_choice[r] = -1;
    for (int64_t e = 0; e < E; e++)
        for (int64_t p = 0; p < parts; p++) {
            if (padded_rows >= 0) row = (int32_t)((e * parts + p) * padded_rows);
            counts[e * parts + p] = 0;
            for (int64_t c = 0; c < N * K; c++) {
                if (!kept[c] || places[ids[c]] != e || c / K / (N / parts) != p) continue;
                counts[e * parts + p]++;
                slot_row[c] = row;
                row_choice[row++] = (int32_t)c;
            }
        }
}

// Of the rows that `rank` receives: those of one source rank, local expert and shard.
typedef struct Run {
    int64_t chunk, source, expert, shard, rows;
} Run;

static bool earlier_received(const Run *a, const Run *b) {
    if (a->chunk != b->chunk) return a->chunk < b->chunk;
    if (a->source != b->source) return a->source < b->source;
    if (a->expert != b->expert) return a->expert < b->expert;
    return a->shard < b->shard;
}
static bool earlier_expert_row(const Run *a, const Run *b) {
    if (a->expert != b->expert) return a->expert < b->expert;
    if (a->source != b->source) return a->source < b->source;
    return a->shard < b->shard;
}
// How many rows come before a run in an order.
static int64_t rows_before(const Run *run, const Run *runs, int64_t count,
                           bool (*earlier)(const Run *, const Run *)) {
    int64_t rows = 0;
    for (int64_t i = 0; i < count; i++)
        if (earlier(&runs[i], run)) rows += runs[i].rows;
    return rows;
}

// Whose piece it is; rank r's are first[r] to first[r + 1] - 1.
static int64_t owner_of(const int64_t *first, int64_t piece) {
    int64_t rank = 0;
    while (first[rank + 1] <= piece) rank++;
    return rank;
}

void reference_exchange_plan(ReferenceExchange to, const int32_t *counts, ReferenceCut cut,
                             int64_t rank, int64_t chunks, int64_t parts, int64_t max_rows) {
    int64_t ep = cut.ranks, E = cut.first_expert[ep], G = cut.first_shard[ep], count = 0;
    int64_t local = cut.first_expert[rank + 1] - cut.first_expert[rank];
    Run *runs = calloc((size_t)(local * G), sizeof *runs);
    CHECK(runs, "no memory for %lld runs", (long long)(local * G));
    for (int64_t t = 0; t < chunks * ep; t++) to.send_rows[t] = to.receive_rows[t] = 0;
    for (int64_t r = 0; r < max_rows; r++) to.to_expert[r] = to.to_received[r] = -1;
    for (int64_t i = 0; i <= local * parts; i++) to.offsets[i] = 0;
    for (int64_t e = 0; e < E; e++)
        for (int64_t shard = 0; shard < G; shard++) {
            int64_t owner = owner_of(cut.first_expert, e),
                    source = owner_of(cut.first_shard, shard);
            int64_t of_owner = cut.first_expert[owner + 1] - cut.first_expert[owner];
            int64_t expert = e - cut.first_expert[owner], chunk = expert / (of_owner / chunks);
            int64_t rows = counts[e * G + shard];
            if (source == rank) to.send_rows[chunk * ep + owner] += rows;
            if (owner != rank) continue;
            to.receive_rows[chunk * ep + source] += rows;
            runs[count++] = (Run){chunk, source, expert, shard, rows};
            // Everything behind the part that these rows belong to starts so much later.
            int64_t part = shard / (G / parts);
            for (int64_t i = expert * parts + part + 1; i <= local * parts; i++)
                to.offsets[i] += rows;
        }
    for (int64_t i = 0; i < count; i++) {
        int64_t received = rows_before(&runs[i], runs, count, earlier_received);
        int64_t expert_row = rows_before(&runs[i], runs, count, earlier_expert_row);
        for (int64_t j = 0; j < runs[i].rows; j++, received++, expert_row++)
            if (received < max_rows && expert_row < max_rows) {
                to.to_expert[expert_row] = (int32_t)received;
                to.to_received[received] = (int32_t)expert_row;
            }
    }
    free(runs);
}

void reference_expert_row_numbers(int64_t *numbers, const int32_t *counts, const int32_t *experts,
                                  ReferenceCut cut, int64_t rank, RowNumbering rule) {
    int64_t G = cut.first_shard[cut.ranks], row = 0;
    for (int64_t e = cut.first_expert[rank]; e < cut.first_expert[rank + 1]; e++)
        for (int64_t shard = 0; shard < G; shard++)
            for (int64_t i = 0; i < counts[e * G + shard]; i++)
                numbers[row++] =
                    (experts[e] * rule.shards + rule.first_shard + shard) * rule.most + i;
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
