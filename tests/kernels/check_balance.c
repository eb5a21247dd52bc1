// The ops of the balance losses that are not of choices, on every device: importance, and the
// coefficient of variation of its sums, whose slopes are compared with its differences.
#include "harness.h"

#include <math.h>
#include <stdlib.h>

// ---- importance ---------------------------------------------------------------------------------

typedef struct ImportanceCase {
    Tensor sums, ids, weights, dweights, slopes;
} ImportanceCase;

static void run_importance(Device *dev, void *context) {
    ImportanceCase *c = context;
    importance_sums(dev, c->sums, c->ids, c->weights);
    importance_backward(dev, c->dweights, c->ids, c->slopes);
}

// Weights in [0, 2), some not numbers or beyond what a sum takes; some ids are no expert.
static void check_importance(int64_t N, int64_t E, int64_t K, int64_t parts) {
    ImportanceCase c = {
        .ids = new_2d(I32, N, K), .weights = random_2d(N, K), .slopes = random_2d(parts, E)};
    Tensor before = random_2d(N, K);
    int64_t *sums = calloc((size_t)(parts * E), sizeof *sums);
    double *dweights = new_doubles(N * K);
    CHECK(sums, "no memory for %lld sums", (long long)(parts * E));
    for (int64_t i = 0; i < N * K; i++) {
        int32_t id = (int32_t)(random_below(E + 2) - 1);
        float *w = &tensor_f32(c.weights)[i];
        *w = i % 17 == 5 ? NAN : i % 17 == 9 ? 1e9f : *w + 1;
        tensor_i32(c.ids)[i] = id;
        dweights[i] = (double)tensor_f32(before)[i];
        if (id < 0 || id >= E) continue;
        int64_t at = i / (N * K / parts) * E + id;
        double addend = isnan(*w) ? 0 : fmin((double)*w, BALANCE_ADDEND_MAX);
        sums[at] += (int64_t)rint(addend * 0x1p30);
        dweights[i] += (double)tensor_f32(c.slopes)[at];
    }
    for (int d = 0; d < device_count(); d++) {
        Device *dev = device_at(d);
        begin_case("importance on %s N=%lld E=%lld K=%lld parts=%lld", dev->name, (long long)N,
                   (long long)E, (long long)K, (long long)parts);
        c.sums = new_2d(I64, parts, E);
        c.dweights = copy_of(before);
        run_on(dev, run_importance, &c,
               TENSORS(&c.sums, &c.ids, &c.weights, &c.dweights, &c.slopes));
        expect_same_bytes("sums", c.sums, sums);
        expect_near("dweights", c.dweights, dweights, F32_EPS, NULL, 0); // one addition
    }
    free(sums);
    release_all();
}

// ---- variation ----------------------------------------------------------------------------------

typedef struct VariationCase {
    Tensor totals, slopes, sums;
    VariationTerm term;
    bool add;
} VariationCase;

static void run_variation(Device *dev, void *context) {
    VariationCase *c = context;
    variation_totals(dev, c->totals, c->slopes, c->sums, c->term, c->add);
}

// CV² of the scope of a part, where expert `moved` has `by` more.
static double variation(const VariationCase *c, int64_t part, int64_t moved, double by) {
    int64_t parts = c->slopes.shape[0], R = c->sums.shape[0], E = c->sums.shape[1];
    int64_t scope = part / (parts / R) / c->term.run;
    double sum = 0, squares = 0;
    for (int64_t e = 0; e < E; e++) {
        double V = e == moved ? by : 0;
        for (int64_t r = scope * c->term.run; r < (scope + 1) * c->term.run; r++)
            V += (double)tensor_i64(c->sums)[r * E + e] * 0x1p-30;
        sum += V;
        squares += V * V;
    }
    return sum > 0 ? (double)E * squares / (sum * sum) - 1 : 0;
}

// A row of sums for each of R, of which `run` are a scope; the first scope's are all 0.
static void check_variation(int64_t parts, int64_t R, int64_t run, int64_t rows, int64_t E,
                            bool add) {
    enum { COLUMNS = 3 };
    VariationCase c = {.sums = new_2d(I64, R, E), .slopes = new_2d(F32, parts, E), .add = add};
    c.term = (VariationTerm){0.3, run, 0.25, 0.25 / (double)(parts / R * run), 1};
    for (int64_t i = 0; i < R * E; i++)
        tensor_i64(c.sums)[i] = R > run && i < run * E ? 0 : random_below(INT64_C(1) << 36);
    Tensor before = random_2d(parts, E);
    double *slopes = new_doubles(parts * E), *totals = new_doubles(rows * COLUMNS);
    double size = 0, h = 1e-3; // sums are about 30; curvature E / sum²
    for (int64_t i = 0; i < rows * COLUMNS; i++) totals[i] = 1;
    for (int64_t i = 0; i < parts * E; i++) {
        double here = variation(&c, i / E, -1, 0);
        double slope = (variation(&c, i / E, i % E, h) - variation(&c, i / E, i % E, -h)) / (2 * h);
        slopes[i] = here > 0 ? 0.3 * 0.25 * slope : 0;
        size = fmax(size, fabs(slopes[i]));
        slopes[i] += add ? (double)tensor_f32(before)[i] : 0;
        if (i % E == 0) totals[i / E / (parts / rows) * COLUMNS + 1] += c.term.part_share * here;
    }
    for (int d = 0; d < device_count(); d++) {
        Device *dev = device_at(d);
        begin_case("variation on %s parts=%lld R=%lld run=%lld rows=%lld E=%lld", dev->name,
                   (long long)parts, (long long)R, (long long)run, (long long)rows, (long long)E);
        c.totals = new_2d(F64, rows, COLUMNS);
        for (int64_t i = 0; i < rows * COLUMNS; i++) tensor_f64(c.totals)[i] = 1;
        c.slopes = add ? copy_of(before) : new_2d(F32, parts, E);
        run_on(dev, run_variation, &c, TENSORS(&c.totals, &c.slopes, &c.sums));
        // The reference's difference of two squares rounds to 2^-53 E; its step errs by h² of the
        // third derivative, E / sum³.
        expect_near("slopes", c.slopes, slopes, 2 * F32_EPS, NULL, size * 1e-5);
        expect_near("totals", c.totals, totals, 1e-12, NULL, 0);
    }
    release_all();
}

int main(void) {
    check_importance(0, 3, 2, 1);
    check_importance(1, 1, 1, 1);
    check_importance(12, 4, 2, 3);
    check_importance(600, 130, 8, 4);
    for (int add = 0; add < 2; add++) {
        check_variation(1, 1, 1, 1, 4, add);   // a scope of all parts
        check_variation(8, 8, 1, 2, 5, add);   // of each part
        check_variation(8, 8, 4, 2, 5, add);   // of each row of totals
        check_variation(8, 1, 1, 4, 300, add); // of all ranks
    }
    return failures();
}
