#include <math.h>
#include <string.h>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/router_choose.h"
#include "kernels/cpu/scratch.h"

// `lse` is that of the logits, `largest` the largest of them.
static inline Normaliser normaliser_of(RouterScore score, const float *z, int64_t E, float largest,
                                       float lse) {
    if (score == SCORE_EXP) return (Normaliser){lse, 1.0f};
    float room[BLOCK], best = log_score(score, largest), sum = 0.0f;
    for (int64_t first = 0; first < E; first += BLOCK) {
        int64_t count = E - first < BLOCK ? E - first : BLOCK;
        sum += sum_of_exp(log_scores(score, room, z + first, count), count, best);
    }
    return (Normaliser){best, 1.0f / sum};
}

// Σ p log p over all experts, with the sign turned. Compiled twice, as sum_probabilities: a softmax
// of the logits themselves has no scale.
static inline __attribute__((always_inline)) float
entropy_by(RouterScore score, const float *z, int64_t E, Normaliser by, bool scaled) {
    float room[BLOCK], term[BLOCK], sum = 0.0f, log_scale = scaled ? logf(by.scale) : 0.0f;
    for (int64_t first = 0; first < E; first += BLOCK) {
        int64_t count = E - first < BLOCK ? E - first : BLOCK;
        const float *log_of = log_scores(score, room, z + first, count);
        for (int64_t i = 0; i < count; i++) {
            float shifted = log_of[i] - by.shift;
            term[i] = scaled ? -(exp_f32(shifted) * by.scale) * (shifted + log_scale)
                             : -exp_f32(shifted) * shifted;
        }
        sum += sum_of(term, count);
    }
    return sum;
}
static float entropy_of(RouterScore score, const float *z, int64_t E, Normaliser by) {
    return score == SCORE_EXP ? entropy_by(SCORE_EXP, z, E, by, false)
                              : entropy_by(score, z, E, by, true);
}

// The gate weights of the chosen experts. s_k / Σ s, over all or over the chosen, is taken from the
// logarithms of the scores, so that no s is too small for it.
static void weigh(float *w, const int32_t *chosen, const Keys *keys, RouterWeighing weighing,
                  double factor, int64_t E, int64_t K) {
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
    float best = max_of(w, K), sum = 0.0f, shift = 0.0f;
    bool plain = keys->score == SCORE_EXP;
    for (int64_t k = 0; k < K && !plain; k++) w[k] = log_score(keys->score, w[k]);
    switch (weighing) {
    case WEIGH_OVER_ALL:
        shift = keys->by.shift;
        break;
    case WEIGH_OVER_CHOSEN:
        shift = log_score(keys->score, best);
        break;
    case WEIGH_ALONE:
        break;
    }
    for (int64_t k = 0; k < K; k++) sum += w[k] = exp_f32(w[k] - shift);
    for (int64_t k = 0; k < K && weighing == WEIGH_OVER_CHOSEN; k++) w[k] /= sum;
    for (int64_t k = 0; k < K && !plain; k++) w[k] *= (float)factor;
}

enum { COLUMNS = 64 }; // experts whose probabilities one task sums down a part's tokens

// sum[0..columns) = Σ over `rows` tokens, in order, of the probabilities
static inline __attribute__((always_inline)) void
sum_probabilities_by(double *sum, RouterScore score, const float *z, const Normaliser *by,
                     int64_t rows, int64_t E, int64_t columns, bool scaled) {
    enum { AHEAD = 8, LINE = 16 }; // the columns of a few rows on: only pieces of rows are read
    double total[COLUMNS] = {0};
    float p[COLUMNS], room[COLUMNS];
    for (int64_t n = 0; n < rows; n++) {
        if (n + AHEAD < rows)
            for (int64_t e = 0; e < columns; e += LINE) __builtin_prefetch(z + (n + AHEAD) * E + e);
        const float *log_of = log_scores(score, room, z + n * E, columns);
        for (int64_t e = 0; e < columns; e++)
            p[e] = scaled ? exp_f32(log_of[e] - by[n].shift) * by[n].scale
                          : exp_f32(log_of[e] - by[n].shift);
        for (int64_t e = 0; e < columns; e++) total[e] += (double)p[e];
    }
    memcpy(sum, total, (size_t)columns * sizeof *sum);
}
static void sum_probabilities(double *sum, RouterScore score, const float *z, const Normaliser *by,
                              int64_t rows, int64_t E, int64_t columns) {
    if (score == SCORE_EXP)
        sum_probabilities_by(sum, SCORE_EXP, z, by, rows, E, columns, false);
    else
        sum_probabilities_by(sum, score, z, by, rows, E, columns, true);
}

void router_forward_cpu(Device *dev, Routing routing, RouterSums sums, Tensor logits, Tensor bias,
                        RouterRule rule) {
    int64_t N = logits.shape[0], E = logits.shape[1], K = routing.ids.shape[1];
    int64_t parts = sums.prob_sum.shape[0], rows = N / parts;
    const float *z = tensor_f32(logits), *bias_of = bias.data ? tensor_f32(bias) : NULL;
    int32_t *id = tensor_i32(routing.ids);
    float *weight = tensor_f32(routing.weights), *lse_of = tensor_f32(routing.lse);
    float *square = routing.squares.data ? tensor_f32(routing.squares) : NULL;
    double *prob = tensor_f64(sums.prob_sum), *entropy_of_part = tensor_f64(sums.entropy_sum);
    double *lse2_of_part = tensor_f64(sums.lse2_sum);
    RouterScore score = router_score(rule, K);
    RouterWeighing weighing = router_weighing(rule, K);
    KeyKind kind = bias.data && rule.kind == SINKHORN ? KEY_BIASED_LOGIT
                   : bias.data || rule.groups > 1     ? KEY_SCORE
                                                      : KEY_LOGIT;
    // (N) each, shared by the threads
    Normaliser *by = thread_scratch((size_t)N * (sizeof(Normaliser) + sizeof(float)));
    float *entropy = (float *)(by + N);
#pragma omp parallel
    {
#pragma omp for schedule(static)
        for (int64_t n = 0; n < N; n++) {
            const float *row = z + n * E;
            int32_t *chosen = id + n * K;
            Keys keys = {.kind = kind, .score = score, .z = row};
            if (bias_of) keys.bias = bias_of + (bias.rank == 2 ? n / rows * E : 0);
            bool by_logit = kind == KEY_LOGIT && !rule.given;
            if (by_logit) choose(chosen, &keys, rule, E, K); // which finds the largest, too
            float largest = by_logit ? row[chosen[0]] : max_of(row, E);
            lse_of[n] = largest + logf(sum_of_exp(row, E, largest));
            keys.by = by[n] = normaliser_of(score, row, E, largest, lse_of[n]);
            entropy[n] = entropy_of(score, row, E, by[n]);
            if (square) square[n] = dot_product(row, row, E);
            if (!by_logit && !rule.given) choose(chosen, &keys, rule, E, K);
            weigh(weight + n * K, chosen, &keys, weighing, rule.scaling_factor, E, K);
        }
#pragma omp for schedule(static) collapse(2) nowait
        for (int64_t p = 0; p < parts; p++)
            for (int64_t e = 0; e < E; e += COLUMNS)
                sum_probabilities(prob + p * E + e, score, z + p * rows * E + e, by + p * rows,
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
