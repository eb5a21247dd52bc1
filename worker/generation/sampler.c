#include "worker/generation/sampler.h"

#include <math.h>
#include <stdlib.h>

// Whether token a comes before token b: the larger logit first, ties to the lower token; NaN counts
// as -inf.
static bool is_likelier(const float *logits, int32_t a, int32_t b) {
    float x = isnan(logits[a]) ? -INFINITY : logits[a];
    float y = isnan(logits[b]) ? -INFINITY : logits[b];
    return x != y ? x > y : a < b;
}

static int compare_tokens(const void *a, const void *b, void *logits) {
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return is_likelier(logits, x, y) ? -1 : is_likelier(logits, y, x) ? 1 : 0;
}

static int32_t likeliest_token(const float *logits, int64_t V) {
    int32_t best = 0;
    for (int32_t i = 1; i < V; i++)
        if (is_likelier(logits, i, best)) best = i;
    return best;
}

// Uniform in [0, 1), multiples of 2^-53.
static double draw_uniform(Sampling rule, int64_t position) {
    uint32_t words[4];
    rng_words((RngStream){rule.seed, RNG_SAMPLE, rule.sample, 0}, (uint64_t)position, words);
    return (double)(((uint64_t)words[0] << 32 | words[1]) >> 11) * 0x1p-53;
}

int32_t sample_token(const float *logits, int64_t V, Sampling rule, int64_t position,
                     int32_t *order, double *probabilities) {
    int32_t best = likeliest_token(logits, V);
    if (rule.temperature == 0.0 || !isfinite(logits[best])) return best;

    for (int32_t i = 0; i < V; i++) order[i] = i;
    qsort_r(order, (size_t)V, sizeof *order, compare_tokens, (void *)logits);

    int64_t candidates = rule.top_k > 0 && rule.top_k < V ? rule.top_k : V;
    double total = 0.0; // probabilities stay unnormalised: only their ratios matter
    for (int64_t i = 0; i < candidates; i++) {
        double logit = isnan(logits[order[i]]) ? -INFINITY : logits[order[i]];
        probabilities[i] = exp((logit - logits[best]) / rule.temperature);
        total += probabilities[i];
    }
    // The nucleus: the fewest likeliest tokens that hold top_p of the mass, at least one.
    double mass = 0.0;
    int64_t nucleus = 0;
    do mass += probabilities[nucleus++];
    while (nucleus < candidates && mass < rule.top_p * total);

    double target = draw_uniform(rule, position) * mass, below = 0.0;
    for (int64_t i = 0; i < nucleus; i++) {
        below += probabilities[i];
        if (target < below) return order[i];
    }
    return order[nucleus - 1]; // only by rounding
}

void penalize_repetition(float *logits, int64_t V, const bool *seen, double penalty) {
    for (int64_t v = 0; v < V; v++)
        if (seen[v]) logits[v] = (float)(logits[v] > 0 ? logits[v] / penalty : logits[v] * penalty);
}
