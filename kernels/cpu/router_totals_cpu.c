#include <math.h>
#include <string.h>

#include "kernels/cpu/cpu_ops.h"

// The choices of expert e that a term makes f of, for part p.
static int64_t count_of(LoadTerm term, const int32_t *load, const int64_t *counts, int64_t p,
                        int64_t e, int64_t E) {
    if (term.counts_row >= 0) return counts[term.counts_row * E + e];
    int64_t first = p / term.parts * term.parts, count = 0;
    for (int64_t i = first; i < first + term.parts; i++) count += load[i * E + e];
    return count;
}

void router_totals_cpu(Device *dev, RouterTotals to, Tensor balance, RouterSums sums, Tensor counts,
                       BalanceRule rule) {
    int64_t parts = sums.tokens_per_expert.shape[0], E = sums.tokens_per_expert.shape[1];
    int64_t columns = to.totals.shape[1], parts_per_row = parts / to.totals.shape[0];
    const int32_t *tokens_per_expert = tensor_i32(sums.tokens_per_expert),
                  *dropped = tensor_i32(sums.dropped);
    const int32_t *load =
        sums.first_choices.data ? tensor_i32(sums.first_choices) : tokens_per_expert;
    const double *prob_sum = tensor_f64(sums.prob_sum), *mass = tensor_f64(sums.weight_mass);
    const int64_t *counts_of = counts.data ? tensor_i64(counts) : NULL;
    float *coefficient = tensor_f32(balance);
    int64_t *routed_total = tensor_i64(to.routed), *dropped_total = tensor_i64(to.dropped);
    int64_t may_drop = to.dropped.shape[0];
    for (int64_t p = 0; p < parts; p++) {
        double *row = tensor_f64(to.totals) + p / parts_per_row * columns;
        double loss[LOAD_TERMS_MAX] = {0};
        for (int64_t e = 0; e < E; e++) {
            double sum = 0;
            for (int i = 0; i < rule.count; i++) {
                LoadTerm term = rule.terms[i];
                int64_t count = count_of(term, load, counts_of, p, e, E);
                double share = (double)E * rule.per_step_token * (double)count / term.choices;
                sum += term.coefficient * share;
                loss[i] += share * prob_sum[p * E + e];
            }
            coefficient[p * E + e] = (float)sum;
            row[to.weight_mass + e] += mass[p * E + e];
            routed_total[e] += tokens_per_expert[p * E + e] - dropped[p * E + e];
            if (e < may_drop) dropped_total[e] += dropped[p * E + e];
        }
        for (int i = 0; i < rule.count; i++) row[rule.terms[i].column] += loss[i];
        row[to.z] += rule.per_step_token * tensor_f64(sums.lse2_sum)[p];
        row[to.entropy] += rule.per_step_token * tensor_f64(sums.entropy_sum)[p];
    }
}

// Not shared out among threads: an increment a choice is little beside what the router did for it.
void count_ids_cpu(Device *dev, Tensor counts, Tensor ids, Tensor kept) {
    int64_t *to = tensor_i64(counts), n = tensor_elements(ids), E = counts.shape[0];
    const int32_t *id = tensor_i32(ids);
    const uint8_t *keep = kept.data ? tensor_u8(kept) : NULL;
    for (int64_t i = 0; i < n; i++)
        if (id[i] >= 0 && id[i] < E && (!keep || keep[i])) to[id[i]]++;
}

void count_first_choices_cpu(Device *dev, Tensor counts, Tensor ids) {
    int64_t parts = counts.shape[0], E = counts.shape[1], K = ids.shape[1];
    int64_t rows = ids.shape[0] / parts;
    memset(counts.data, 0, tensor_bytes(counts));
    for (int64_t n = 0; n < ids.shape[0]; n++) {
        int32_t id = tensor_i32(ids)[n * K];
        if (id >= 0 && id < E) tensor_i32(counts)[n / rows * E + id]++;
    }
}

void count_squares_cpu(Device *dev, Tensor counts, Tensor squares, int64_t E) {
    int64_t n = squares.shape[0], *to = tensor_i64(counts);
    const float *square = tensor_f32(squares);
    for (int64_t i = 0; i < n; i++) {
        double mean = (double)square[i] / (double)E;
        mean = mean > 0 ? (mean < 0x1p40 ? mean : 0x1p40) : 0;
        int64_t whole = (int64_t)mean;
        to[0] += whole;
        to[1] += llrint((mean - (double)whole) * 0x1p32);
    }
    to[2] += n;
}

void sum_columns_cpu(Device *dev, Tensor out, Tensor x, bool add) {
    int64_t rows = x.shape[0], E = x.shape[1], *to = tensor_i64(out);
    if (!add) memset(to, 0, tensor_bytes(out));
    for (int64_t p = 0; p < rows; p++)
        for (int64_t e = 0; e < E; e++)
            to[e] += x.dtype == I64 ? tensor_i64(x)[p * E + e] : tensor_i32(x)[p * E + e];
}
