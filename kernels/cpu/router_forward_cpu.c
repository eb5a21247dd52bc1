#include <math.h>
#include <string.h>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/router_scores.h"
#include "kernels/cpu/scratch.h"

enum { BLOCK = 256 };

// How a token's scores become its probabilities: exp(log score - shift) · scale.
typedef struct Normaliser {
    float shift, scale;
} Normaliser;

// `lse` is that of the logits, `largest` the largest of them.
static inline Normaliser normaliser_of(RouterKind kind, const float *z, int64_t E, float largest,
                                       float lse) {
    switch (kind) {
    case SOFTMAX_TOPK:
    case TOPK_SOFTMAX:
    case HASH:
    case EXPERT_CHOICE:
        return (Normaliser){lse, 1.0f};
    case SIGMOID:
        break;
    }
    float room[BLOCK], best = log_sigmoid(largest), sum = 0.0f;
    for (int64_t first = 0; first < E; first += BLOCK) {
        int64_t count = E - first < BLOCK ? E - first : BLOCK;
        sum += sum_of_exp(log_scores(kind, room, z + first, count), count, best);
    }
    return (Normaliser){best, 1.0f / sum};
}

// Σ p log p over all experts, with the sign turned. Compiled twice, as sum_probabilities: a softmax
// of the logits themselves has no scale.
static inline __attribute__((always_inline)) float
entropy_by(RouterKind kind, const float *z, int64_t E, Normaliser by, bool scaled) {
    float room[BLOCK], term[BLOCK], sum = 0.0f, log_scale = scaled ? logf(by.scale) : 0.0f;
    for (int64_t first = 0; first < E; first += BLOCK) {
        int64_t count = E - first < BLOCK ? E - first : BLOCK;
        const float *log_score = log_scores(kind, room, z + first, count);
        for (int64_t i = 0; i < count; i++) {
            float shifted = log_score[i] - by.shift;
            term[i] = scaled ? -(exp_f32(shifted) * by.scale) * (shifted + log_scale)
                             : -exp_f32(shifted) * shifted;
        }
        sum += sum_of(term, count);
    }
    return sum;
}
static float entropy_of(RouterKind kind, const float *z, int64_t E, Normaliser by) {
    return kind == SIGMOID ? entropy_by(kind, z, E, by, true)
                           : entropy_by(SOFTMAX_TOPK, z, E, by, false);
}

// ---- choosing -----------------------------------------------------------------------------------

// What a token's experts are chosen by: their logits, or their scores plus a bias.
typedef struct Keys {
    const float *z, *bias; // (E); bias NULL: none
    RouterKind kind;
    Normaliser by;
} Keys;

static inline float biased_score(const Keys *k, float log_score, int64_t e) {
    switch (k->kind) {
    case SOFTMAX_TOPK:
    case TOPK_SOFTMAX:
    case HASH:
    case EXPERT_CHOICE:
        return exp_f32(log_score - k->by.shift) * k->by.scale + k->bias[e];
    case SIGMOID:
        return exp_f32(log_score) + k->bias[e];
    }
    CHECK(false, "router %d", (int)k->kind);
}

static inline const float *keys_from(const Keys *k, float *room, int64_t first, int64_t count,
                                     bool biased) {
    if (!biased) return k->z + first;
    const float *log_score = log_scores(k->kind, room, k->z + first, count);
    for (int64_t i = 0; i < count; i++) room[i] = biased_score(k, log_score[i], first + i);
    return room;
}

static inline float key_of(const Keys *k, int64_t e, bool biased) {
    float room;
    return *keys_from(k, &room, e, 1, biased);
}

// The K largest keys, best first; equal ones in ascending order. Valid ids even for NaN. Compiled
// twice, since logits alone are chosen among in a third of the time.
static inline __attribute__((always_inline)) void choose_by(int32_t *ids, const Keys *keys,
                                                            int64_t E, int64_t K, bool biased) {
    int64_t found = 0;
    float room[BLOCK], last = 0.0f; // the key of the last one found
    for (int64_t first = 0; first < E; first += BLOCK) {
        int64_t count = E - first < BLOCK ? E - first : BLOCK;
        const float *key = keys_from(keys, room, first, count, biased);
        for (int64_t i = 0; i < count; i++) {
            if (found == K && !(key[i] > last)) continue;
            int64_t at = found < K ? found++ : K - 1;
            for (; at > 0 && key[i] > key_of(keys, ids[at - 1], biased); at--)
                ids[at] = ids[at - 1];
            ids[at] = (int32_t)(first + i);
            last = key_of(keys, ids[found - 1], biased);
        }
    }
}
static void choose(int32_t *ids, const Keys *keys, int64_t E, int64_t K) {
    if (keys->bias)
        choose_by(ids, keys, E, K, true);
    else
        choose_by(ids, keys, E, K, false);
}

// The gate weights of the chosen experts, from their logits in w, of which `best` is the largest.
static void softmax_weights(float *w, float best, float lse, bool among_chosen, int64_t K) {
    float shift = among_chosen ? best : lse, sum = 0.0f;
    for (int64_t k = 0; k < K; k++) sum += w[k] = exp_f32(w[k] - shift);
    if (among_chosen)
        for (int64_t k = 0; k < K; k++) w[k] /= sum;
}

// s_k / (Σ s + least), both over the largest s, so that no s is too small.
static void sigmoid_weights(float *w, float best, float factor, int64_t K) {
    float log_best = log_sigmoid(best), sum = 0.0f;
    if (K == 1) {
        w[0] = factor * exp_f32(log_best);
        return;
    }
    for (int64_t k = 0; k < K; k++) sum += w[k] = exp_f32(log_sigmoid(w[k]) - log_best);
    sum += SIGMOID_SUM_LEAST * exp_f32(-log_best);
    for (int64_t k = 0; k < K; k++) w[k] = factor * w[k] / sum;
}

static void weigh(float *w, const int32_t *chosen, const Keys *keys, float lse, RouterRule rule,
                  int64_t E, int64_t K) {
    bool any = false;
    for (int64_t k = 0; k < K; k++) {
        bool one = is_expert(chosen[k], E);
        w[k] = one ? keys->z[chosen[k]] : -INFINITY;
        any = any || one;
    }
    if (!any) {
        memset(w, 0, (size_t)K * sizeof *w);
        return;
    }
    float best = keys->bias || rule.given ? max_of(w, K) : w[0];
    switch (rule.kind) {
    case SOFTMAX_TOPK:
    case TOPK_SOFTMAX:
    case HASH:
    case EXPERT_CHOICE:
        softmax_weights(w, best, lse, over_chosen(rule), K);
        return;
    case SIGMOID:
        sigmoid_weights(w, best, (float)rule.scaling_factor, K);
        return;
    }
    CHECK(false, "router %d", (int)rule.kind);
}

enum { COLUMNS = 64 }; // experts whose probabilities one task sums down a part's tokens

// sum[0..columns) = Σ over `rows` tokens, in order, of the probabilities
static inline __attribute__((always_inline)) void
sum_probabilities_by(double *sum, RouterKind kind, const float *z, const Normaliser *by,
                     int64_t rows, int64_t E, int64_t columns, bool scaled) {
    enum { AHEAD = 8, LINE = 16 }; // the columns of a few rows on: only pieces of rows are read
    double total[COLUMNS] = {0};
    float p[COLUMNS], room[COLUMNS];
    for (int64_t n = 0; n < rows; n++) {
        if (n + AHEAD < rows)
            for (int64_t e = 0; e < columns; e += LINE) __builtin_prefetch(z + (n + AHEAD) * E + e);
        const float *log_score = log_scores(kind, room, z + n * E, columns);
        for (int64_t e = 0; e < columns; e++)
            p[e] = scaled ? exp_f32(log_score[e] - by[n].shift) * by[n].scale
                          : exp_f32(log_score[e] - by[n].shift);
        for (int64_t e = 0; e < columns; e++) total[e] += (double)p[e];
    }
    memcpy(sum, total, (size_t)columns * sizeof *sum);
}
static void sum_probabilities(double *sum, RouterKind kind, const float *z, const Normaliser *by,
                              int64_t rows, int64_t E, int64_t columns) {
    if (kind == SIGMOID)
        sum_probabilities_by(sum, kind, z, by, rows, E, columns, true);
    else
        sum_probabilities_by(sum, SOFTMAX_TOPK, z, by, rows, E, columns, false);
}

void router_forward_cpu(Device *dev, Routing routing, RouterSums sums, Tensor logits, Tensor bias,
                        RouterRule rule) {
    int64_t N = logits.shape[0], E = logits.shape[1], K = routing.ids.shape[1];
    int64_t parts = sums.prob_sum.shape[0], rows = N / parts;
    const float *z = tensor_f32(logits), *bias_of = bias.data ? tensor_f32(bias) : NULL;
    int32_t *id = tensor_i32(routing.ids);
    float *weight = tensor_f32(routing.weights), *lse_of = tensor_f32(routing.lse);
    double *prob = tensor_f64(sums.prob_sum), *entropy_of_part = tensor_f64(sums.entropy_sum);
    double *lse2_of_part = tensor_f64(sums.lse2_sum);
    // (N) each, shared by the threads
    Normaliser *by = thread_scratch((size_t)N * (sizeof(Normaliser) + sizeof(float)));
    float *entropy = (float *)(by + N);
#pragma omp parallel
    {
#pragma omp for schedule(static)
        for (int64_t n = 0; n < N; n++) {
            const float *row = z + n * E;
            int32_t *chosen = id + n * K;
            Keys keys = {.z = row, .bias = bias_of, .kind = rule.kind};
            bool by_logit = !bias_of && !rule.given;
            if (by_logit) choose(chosen, &keys, E, K); // which finds the largest, too
            float largest = by_logit ? row[chosen[0]] : max_of(row, E);
            lse_of[n] = largest + logf(sum_of_exp(row, E, largest));
            by[n] = normaliser_of(rule.kind, row, E, largest, lse_of[n]);
            entropy[n] = entropy_of(rule.kind, row, E, by[n]);
            if (bias_of && !rule.given) {
                keys.by = by[n];
                choose(chosen, &keys, E, K);
            }
            weigh(weight + n * K, chosen, &keys, lse_of[n], rule, E, K);
        }
#pragma omp for schedule(static) collapse(2) nowait
        for (int64_t p = 0; p < parts; p++)
            for (int64_t e = 0; e < E; e += COLUMNS)
                sum_probabilities(prob + p * E + e, rule.kind, z + p * rows * E + e, by + p * rows,
                                  rows, E, E - e < COLUMNS ? E - e : COLUMNS);
#pragma omp for schedule(static)
        for (int64_t p = 0; p < parts; p++) {
            double sum_entropy = 0.0, sum_lse2 = 0.0;
            for (int64_t n = p * rows; n < (p + 1) * rows; n++) {
                sum_entropy += (double)entropy[n];
                sum_lse2 += (double)lse_of[n] * (double)lse_of[n];
            }
            entropy_of_part[p] = sum_entropy;
            lse2_of_part[p] = sum_lse2;
        }
    }
}
