#include <math.h>
#include <string.h>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/vector_math.h"

// ---- choosing -----------------------------------------------------------------------------------

// The K largest of z[0..E), best first; equal ones in ascending order. Valid ids even for NaN.
static void choose(int32_t *ids, const float *z, int64_t E, int64_t K) {
    int64_t count = 0;
    for (int64_t e = 0; e < E; e++) {
        if (count == K && !(z[e] > z[ids[K - 1]])) continue;
        int64_t at = count < K ? count++ : K - 1;
        for (; at > 0 && z[e] > z[ids[at - 1]]; at--) ids[at] = ids[at - 1];
        ids[at] = (int32_t)e;
    }
}

static bool over_chosen(RouterRule rule) { // the weights are a softmax over the chosen K alone
    switch (rule.kind) {
    case SOFTMAX_TOPK:
        return true;
    case TOPK_SOFTMAX:
        return rule.normalize_top_k;
    }
    CHECK(false, "router %d", (int)rule.kind);
}

// Σ p log p over the full softmax = Σ p (z - lse), with the sign turned.
static float entropy_of(const float *z, int64_t E, float lse) {
    enum { BLOCK = 256 };
    float term[BLOCK], sum = 0.0f;
    for (int64_t first = 0; first < E; first += BLOCK) {
        int64_t count = E - first < BLOCK ? E - first : BLOCK;
        for (int64_t i = 0; i < count; i++) {
            float log_p = z[first + i] - lse;
            term[i] = -exp_f32(log_p) * log_p;
        }
        sum += sum_of(term, count);
    }
    return sum;
}

enum { COLUMNS = 64 }; // experts whose probabilities one task sums down a part's tokens

// sum[0..columns) = Σ over `rows` tokens, in order, of exp(z - lse)
static void sum_probabilities(double *sum, const float *z, const float *lse, int64_t rows,
                              int64_t E, int64_t columns) {
    enum { AHEAD = 8, LINE = 16 }; // the columns of a few rows on: only pieces of rows are read
    double total[COLUMNS] = {0};
    float p[COLUMNS];
    for (int64_t n = 0; n < rows; n++) {
        if (n + AHEAD < rows)
            for (int64_t e = 0; e < columns; e += LINE) __builtin_prefetch(z + (n + AHEAD) * E + e);
        for (int64_t e = 0; e < columns; e++) p[e] = exp_f32(z[n * E + e] - lse[n]);
        for (int64_t e = 0; e < columns; e++) total[e] += (double)p[e];
    }
    memcpy(sum, total, (size_t)columns * sizeof *sum);
}

void router_forward_cpu(Device *dev, Routing routing, RouterSums sums, Tensor logits,
                        RouterRule rule) {
    int64_t N = logits.shape[0], E = logits.shape[1], K = routing.ids.shape[1];
    int64_t parts = sums.prob_sum.shape[0], rows = N / parts;
    const float *z = tensor_f32(logits);
    int32_t *id = tensor_i32(routing.ids);
    float *weight = tensor_f32(routing.weights), *lse_of = tensor_f32(routing.lse);
    double *prob = tensor_f64(sums.prob_sum), *entropy_of_part = tensor_f64(sums.entropy_sum);
    double *lse2_of_part = tensor_f64(sums.lse2_sum);
    float *entropy = thread_scratch((size_t)N * sizeof *entropy); // (N), shared by the threads
#pragma omp parallel
    {
#pragma omp for schedule(static)
        for (int64_t n = 0; n < N; n++) {
            const float *row = z + n * E;
            int32_t *chosen = id + n * K;
            float *w = weight + n * K;
            choose(chosen, row, E, K);
            float largest = row[chosen[0]];
            lse_of[n] = largest + logf(sum_of_exp(row, E, largest));
            entropy[n] = entropy_of(row, E, lse_of[n]);
            float shift = over_chosen(rule) ? largest : lse_of[n], sum = 0.0f;
            for (int64_t k = 0; k < K; k++) sum += w[k] = exp_f32(row[chosen[k]] - shift);
            if (over_chosen(rule))
                for (int64_t k = 0; k < K; k++) w[k] /= sum;
        }
#pragma omp for schedule(static) collapse(2) nowait
        for (int64_t p = 0; p < parts; p++)
            for (int64_t e = 0; e < E; e += COLUMNS)
                sum_probabilities(prob + p * E + e, z + p * rows * E + e, lse_of + p * rows, rows,
                                  E, E - e < COLUMNS ? E - e : COLUMNS);
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

// With p the softmax over all E, the terms on P and lse have the gradients
//   balance:  p_e (b_e - Σ b p)        z-loss:  2 z_scale lse p_e
// and the gate weights, as a softmax over the chosen or over all,
//   w_k (dw_k - Σ dw w) for e = ids[k]   or   p_e ([e = ids[k]] dw_k - Σ dw w).
static void row_backward(float *dz, const float *dw, const int32_t *ids, const float *w,
                         const float *z, float lse, const float *balance, float z_scale,
                         bool chosen_only, int64_t E, int64_t K) {
    float inner = 0.0f;
    for (int64_t k = 0; k < K; k++) inner += dw[k] * w[k];
    for (int64_t e = 0; e < E; e++) dz[e] = exp_f32(z[e] - lse);
    float shift = 2.0f * z_scale * lse - dot_product(balance, dz, E);
    if (!chosen_only) shift -= inner;
    for (int64_t e = 0; e < E; e++) dz[e] *= balance[e] + shift;
    for (int64_t k = 0; k < K; k++) dz[ids[k]] += w[k] * (chosen_only ? dw[k] - inner : dw[k]);
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
        row_backward(dz + n * E, dw + n * K, id + n * K, w + n * K, z + n * E, lse_of[n],
                     b + n / rows * E, z_scale, over_chosen(rule), E, K);
}
