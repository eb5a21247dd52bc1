#include <string.h>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/router_scores.h"
#include "kernels/cpu/scratch.h"

// One document: rows [first, first + rows) of all.
typedef struct Document {
    int64_t first, rows;
} Document;

typedef struct DocumentRows {
    float *balance;
    const float *base, *logits;
    const int32_t *ids;
    int64_t E, K, rows_of_part;
    DocumentTerm term;
} DocumentRows;

// Its loss; what its rows of `balance` are. sums (E) f64 and counts (E) are scratch.
static double balance_document(DocumentRows x, Document d, double *sums, int64_t *counts) {
    int64_t E = x.E, slots = x.term.first_choices ? 1 : x.K;
    memset(sums, 0, (size_t)E * sizeof *sums);
    memset(counts, 0, (size_t)E * sizeof *counts);
    for (int64_t n = d.first; n < d.first + d.rows; n++) {
        float *p = x.balance + n * E; // free until the end
        const float *log_of = log_scores(x.term.score, p, x.logits + n * E, E);
        float best = max_of(log_of, E), scale = 1.0f / sum_of_exp(log_of, E, best);
        for (int64_t e = 0; e < E; e++) sums[e] += (double)(exp_f32(log_of[e] - best) * scale);
        for (int64_t k = 0; k < slots; k++)
            if (is_expert(x.ids[n * x.K + k], E)) counts[x.ids[n * x.K + k]]++;
    }
    double loss = 0, choices = x.term.choices_a_token * (double)d.rows;
    for (int64_t e = 0; e < E; e++) {
        double share = (double)E * x.term.per_step_token * (double)counts[e] / choices;
        loss += share * sums[e];
        sums[e] = x.term.coefficient * share;
    }
    for (int64_t n = d.first; n < d.first + d.rows; n++)
        for (int64_t e = 0; e < E; e++)
            x.balance[n * E + e] = x.base[n / x.rows_of_part * E + e] + (float)sums[e];
    return loss;
}

// A thread takes a row of the totals: its sequences in order.
void document_balance_cpu(Device *dev, Tensor balance, Tensor totals, Tensor base, Tensor logits,
                          Tensor ids, Tensor positions, DocumentTerm term) {
    int64_t N = logits.shape[0], E = logits.shape[1], R = totals.shape[0];
    const int32_t *position = tensor_i32(positions);
    DocumentRows x = {.balance = tensor_f32(balance),
                      .base = tensor_f32(base),
                      .logits = tensor_f32(logits),
                      .ids = tensor_i32(ids),
                      .E = E,
                      .K = ids.shape[1],
                      .rows_of_part = N / base.shape[0],
                      .term = term};
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < R; r++) {
        double *sums = thread_scratch((size_t)(2 * E) * sizeof *sums), loss = 0;
        int64_t *counts = (int64_t *)(sums + E);
        Document d = {.first = N / R * r};
        for (int64_t n = d.first; n < N / R * (r + 1); n++) {
            d.rows = n + 1 - d.first;
            bool ends = n + 1 == N || (n + 1) % term.T == 0 || position[n + 1] == 0;
            if (!ends) continue;
            loss += balance_document(x, d, sums, counts);
            d.first = n + 1;
        }
        tensor_f64(totals)[r * totals.shape[1] + term.column] += loss;
    }
}
