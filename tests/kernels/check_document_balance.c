// The load-balancing loss of documents against the reference, on every device.
#include "harness.h"

#include <math.h>
#include <stdlib.h>

enum { COLUMNS = 3, COLUMN = 1 };

typedef struct Case {
    Tensor balance, totals, base, logits, ids, positions;
    DocumentTerm term;
} Case;

// On top of totals of 1.
static void run(Device *dev, void *context) {
    Case *c = context;
    document_balance(dev, c->balance, c->totals, c->base, c->logits, c->ids, c->positions, c->term);
}

static double log_score(RouterScore score, double z) {
    switch (score) {
    case SCORE_EXP:
        return z;
    case SCORE_SIGMOID:
        return -log1p(exp(-z));
    case SCORE_SQRT_SOFTPLUS:
        return 0.5 * log(log1p(exp(z)));
    }
    return NAN;
}

// The document of rows [first, end).
static double reference(double *balance, const Case *c, int64_t first, int64_t end) {
    int64_t E = c->logits.shape[1], K = c->ids.shape[1], N = c->logits.shape[0];
    double loss = 0, *row = new_doubles(E);
    for (int64_t e = 0; e < E; e++) {
        double sum = 0, count = 0;
        for (int64_t n = first; n < end; n++) {
            double all = 0;
            for (int64_t i = 0; i < E; i++) {
                double z = (double)tensor_f32(c->logits)[n * E + i];
                row[i] = exp(log_score(c->term.score, z));
                all += row[i];
            }
            sum += row[e] / all;
            for (int64_t k = 0; k < (c->term.first_choices ? 1 : K); k++)
                count += tensor_i32(c->ids)[n * K + k] == e;
        }
        double share = (double)E * c->term.per_step_token * count /
                       (c->term.choices_a_token * (double)(end - first));
        loss += share * sum;
        for (int64_t n = first; n < end; n++)
            balance[n * E + e] = (double)tensor_f32(c->base)[n / (N / c->base.shape[0]) * E + e] +
                                 c->term.coefficient * share;
    }
    return loss;
}

// parts: of the other terms; rows: of the totals.
static void check(RouterScore score, int64_t sequences, int64_t T, int64_t E, int64_t K,
                  int64_t parts, int64_t rows, bool first_choices) {
    int64_t N = sequences * T;
    Case c = {.base = random_2d(parts, E),
              .logits = random_2d(N, E),
              .ids = new_2d(I32, N, K),
              .positions = new_1d(I32, N),
              .term = {.T = T,
                       .coefficient = 0.3,
                       .per_step_token = 0.5 / (double)N,
                       .choices_a_token = first_choices ? 1 : (double)K,
                       .first_choices = first_choices,
                       .score = score,
                       .column = COLUMN}};
    for (int64_t i = 0; i < N * E; i++) tensor_f32(c.logits)[i] *= 3.0f;
    for (int64_t i = 0; i < N * K; i++)
        tensor_i32(c.ids)[i] = (int32_t)(random_below(E + 2) - 1); // some are no expert
    double *balance = new_doubles(N * E), *totals = new_doubles(rows * COLUMNS);
    for (int64_t i = 0; i < rows * COLUMNS; i++) totals[i] = 1;
    int64_t first = 0;
    for (int64_t n = 0; n < N; n++) {
        bool begins = n % T == 0 || random_below(9) == 0;
        tensor_i32(c.positions)[n] = begins ? 0 : tensor_i32(c.positions)[n - 1] + 1;
        if (!begins || n == 0) continue;
        totals[first / (N / rows) * COLUMNS + COLUMN] += reference(balance, &c, first, n);
        first = n;
    }
    totals[first / (N / rows) * COLUMNS + COLUMN] += reference(balance, &c, first, N);
    for (int d = 0; d < device_count(); d++) {
        Device *dev = device_at(d);
        begin_case("document balance on %s, score %d, %lld x %lld, E=%lld K=%lld parts=%lld "
                   "rows=%lld%s",
                   dev->name, (int)score, (long long)sequences, (long long)T, (long long)E,
                   (long long)K, (long long)parts, (long long)rows, first_choices ? " first" : "");
        c.balance = new_2d(F32, N, E);
        c.totals = new_2d(F64, rows, COLUMNS);
        for (int64_t i = 0; i < rows * COLUMNS; i++) tensor_f64(c.totals)[i] = 1;
        run_on(dev, run, &c,
               TENSORS(&c.balance, &c.totals, &c.base, &c.logits, &c.ids, &c.positions));
        expect_near("balance", c.balance, balance, 4 * F32_EPS, NULL, F32_EPS); // one addition
        // P is rounded to f32 after an exponential and a sum of E of them; 1 was there before.
        expect_near("totals", c.totals, totals, 1e-6, NULL, 0);
        if (dev->place == ON_HOST) expect_same_for_any_threads(run, &c, &c.balance, 1);
    }
    release_all();
}

int main(void) {
    check(SCORE_EXP, 4, 30, 8, 2, 4, 2, false);
    check(SCORE_EXP, 1, 200, 70, 3, 1, 1, false);
    check(SCORE_SIGMOID, 2, 17, 5, 1, 2, 2, false);
    check(SCORE_SQRT_SOFTPLUS, 3, 40, 33, 4, 3, 3, true);
    check(SCORE_SIGMOID, 2, 1, 40, 2, 1, 1, true);
    return failures();
}
