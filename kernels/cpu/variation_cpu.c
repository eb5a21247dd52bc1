#include "kernels/cpu/cpu_ops.h"

// An expert's sum in the scope whose rows begin at `first`.
static int64_t sum_of_run(const int64_t *sums, int64_t first, int64_t run, int64_t E, int64_t e) {
    int64_t sum = 0;
    for (int64_t r = first; r < first + run; r++) sum += sums[r * E + e];
    return sum;
}

void variation_totals_cpu(Device *dev, Tensor totals, Tensor slopes, Tensor sums,
                          VariationTerm term, bool add) {
    int64_t parts = slopes.shape[0], E = slopes.shape[1], of_row = parts / sums.shape[0];
    int64_t of_total = parts / totals.shape[0], columns = totals.shape[1];
    const int64_t *sum = tensor_i64(sums);
    for (int64_t p = 0; p < parts; p++) {
        int64_t first = p / of_row / term.run * term.run, all = 0;
        float *slope = tensor_f32(slopes) + p * E;
        for (int64_t e = 0; e < E; e++) all += sum_of_run(sum, first, term.run, E, e);
        double mean = (double)all / (double)E, variation = 0;
        double scale = term.coefficient * term.scope_share * 2 / ((double)all * BALANCE_UNIT);
        for (int64_t e = 0; e < E && all > 0; e++) {
            double off = ((double)sum_of_run(sum, first, term.run, E, e) - mean) / mean;
            variation += off * off / (double)E;
        }
        for (int64_t e = 0; e < E; e++) {
            double off = ((double)sum_of_run(sum, first, term.run, E, e) - mean) / mean;
            float here = all > 0 ? (float)(scale * (off - variation)) : 0.0f;
            slope[e] = add ? slope[e] + here : here;
        }
        tensor_f64(totals)[p / of_total * columns + term.column] += term.part_share * variation;
    }
}
