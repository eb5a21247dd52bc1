// The histogram of quantile balancing against a sort in double. Scores differ by the last digits of
// an exponential between backends, so that one near an edge may fall to either side of it: counted
// are what lies within two bins of where it should be.
#include <float.h>
#include <math.h>
#include <stdlib.h>

#include "tests/kernels/harness.h"

typedef struct Case {
    Tensor counts, logits, lse, bias;
    int64_t K;
    RouterRule rule;
} Case;

static void run(Device *dev, void *context) {
    Case *c = context;
    quantile_counts(dev, c->counts, c->logits, c->lse, c->bias, c->K, c->rule);
}

static int descending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

static void check(int64_t N, int64_t E, int64_t K, RouterKind kind) {
    Case c = {.logits = new_2d(F32, N, E), .lse = new_1d(F32, N), .bias = new_1d(F32, E), .K = K};
    c.rule = (RouterRule){.kind = kind, .scaling_factor = 1};
    double *above = new_doubles(N * E), *keys = new_doubles(E), *column = new_doubles(N);
    for (int64_t e = 0; e < E; e++)
        tensor_f32(c.bias)[e] = (float)(random_below(2001) - 1000) / 5000;
    for (int64_t n = 0; n < N; n++) {
        float *z = tensor_f32(c.logits) + n * E;
        double sum = 0;
        for (int64_t e = 0; e < E; e++) z[e] = (float)(random_below(8001) - 4000) / 1000;
        for (int64_t e = 0; e < E; e++) sum += exp((double)z[e]);
        tensor_f32(c.lse)[n] = (float)log(sum);
        for (int64_t e = 0; e < E; e++) {
            double s = kind == SIGMOID ? 1 / (1 + exp(-(double)z[e])) : exp((double)z[e]) / sum;
            above[n * E + e] = s;
            keys[e] = s + (double)tensor_f32(c.bias)[e];
        }
        qsort(keys, (size_t)E, sizeof *keys, descending);
        for (int64_t e = 0; e < E; e++) above[n * E + e] -= keys[K];
    }
    for (int d = 0; d < device_count(); d++) {
        begin_case("quantiles on %s of %lld tokens, %lld of %lld experts, router %d",
                   device_at(d)->name, (long long)N, (long long)K, (long long)E, (int)kind);
        c.counts = new_2d(I64, E, QUANTILE_BINS);
        for (int64_t i = 0; i < E * QUANTILE_BINS; i++) tensor_i64(c.counts)[i] = 0;
        run_on(device_at(d), run, &c, TENSORS(&c.counts, &c.logits, &c.lse, &c.bias));
        for (int64_t e = 0; e < E; e++) {
            const int64_t *counts = tensor_i64(c.counts) + e * QUANTILE_BINS;
            int64_t sum = 0;
            for (int i = 0; i < QUANTILE_BINS; i++) sum += counts[i];
            expect(sum == N, "expert %lld: %lld counted", (long long)e, (long long)sum);
            for (int64_t n = 0; n < N; n++) column[n] = above[n * E + e];
            qsort(column, (size_t)N, sizeof *column, descending);
            for (int64_t n = 1; n <= N; n += 1 + N / 7) {
                double got = quantile_largest(counts, n), want = column[n - 1];
                // A bin is 1/32 of its power of two, or 2^-16 beside 0.
                expect(fabs(got - want) <= 2 * fabs(want) / 32 + 0x1p-15,
                       "expert %lld: the %lldth largest is %g, wanted %g", (long long)e,
                       (long long)n, got, want);
            }
        }
    }
    release_all();
}

int main(void) {
    check(1, 2, 1, SIGMOID);
    check(50, 4, 2, SOFTMAX_TOPK);
    check(33, 70, 6, SIGMOID);
    check(40, 300, 8, TOPK_SOFTMAX);
    check(20, 65, 64, SIGMOID);
    return failures();
}
