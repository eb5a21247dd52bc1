#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/router_scores.h"
#include "kernels/cpu/scratch.h"

enum { MOST = 64, BLOCK = 64 }; // experts of a token; experts whose scores are taken at once

static inline int bin_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    int j = (int)((bits & 0x7fffffffu) >> QUANTILE_SHIFT) - QUANTILE_LEAST;
    j = j < 0 ? 0 : j < QUANTILE_HALF ? j : QUANTILE_HALF - 1;
    return x >= 0.0f ? QUANTILE_HALF + j : QUANTILE_HALF - 1 - j;
}

// The scores of `count` experts from the first: what router_forward adds a bias to.
static inline void scores(RouterScore score, float *s, const float *z, float lse, int64_t count) {
    float room[BLOCK], shift = score == SCORE_EXP ? lse : 0.0f;
    const float *log_score = log_scores(score, room, z, count);
    for (int64_t i = 0; i < count; i++) s[i] = exp_f32(log_score[i] - shift);
}

// The n-th largest of s + bias.
static float nth_largest(RouterScore score, const float *z, float lse, const float *bias, int64_t E,
                         int64_t n) {
    float top[MOST + 1], s[BLOCK];
    int64_t found = 0;
    for (int64_t first = 0; first < E; first += BLOCK) {
        int64_t count = E - first < BLOCK ? E - first : BLOCK;
        scores(score, s, z + first, lse, count);
        for (int64_t i = 0; i < count; i++) {
            float key = s[i] + bias[first + i];
            if (found == n && !(key > top[n - 1])) continue;
            int64_t at = found < n ? found++ : n - 1;
            for (; at > 0 && key > top[at - 1]; at--) top[at] = top[at - 1];
            top[at] = key;
        }
    }
    return top[n - 1];
}

void quantile_counts_cpu(Device *dev, Tensor counts, Tensor logits, Tensor lse, Tensor bias,
                         int64_t K, RouterRule rule) {
    int64_t N = logits.shape[0], E = logits.shape[1], *to = tensor_i64(counts);
    const float *z = tensor_f32(logits), *lse_of = tensor_f32(lse), *b = tensor_f32(bias);
    float *enough = thread_scratch((size_t)N * sizeof *enough); // shared by the threads
    CHECK(K <= MOST, "%lld experts a token", (long long)K);
#pragma omp parallel
    {
#pragma omp for schedule(static)
        for (int64_t n = 0; n < N; n++)
            enough[n] = nth_largest(router_score(rule, K), z + n * E, lse_of[n], b, E, K + 1);
#pragma omp for schedule(static)
        for (int64_t first = 0; first < E; first += BLOCK) { // experts, so that counts are apart
            int64_t count = E - first < BLOCK ? E - first : BLOCK;
            float s[BLOCK];
            for (int64_t n = 0; n < N; n++) {
                scores(router_score(rule, K), s, z + n * E + first, lse_of[n], count);
                for (int64_t i = 0; i < count; i++)
                    to[(first + i) * QUANTILE_BINS + bin_of(s[i] - enough[n])]++;
            }
        }
    }
}
