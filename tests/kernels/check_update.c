// The updates of the optimizers beside AdamW on every device.
#include <math.h>

#include "harness.h"
#include "reference.h"

enum { UNIT = 16 }; // elements of one group number

typedef struct Update {
    Tensor w, copy, g, m, groups, w_before, m_before;
    Sgd sgd;
    Lion lion;
} Update;

// Weights that are small beside a step, so that their rounding hides no error of it.
static Update new_update(int64_t n, bool with_copy) {
    Update c = {.w = new_1d(F32, n), .g = random_1d(n), .m = new_1d(F32, n)};
    c.copy = with_copy ? new_1d(BF16, n) : (Tensor){0};
    c.groups = new_1d(U8, n / UNIT);
    for (int64_t u = 0; u < n / UNIT; u++)
        tensor_u8(c.groups)[u] = (uint8_t)random_below(UPDATE_GROUPS);
    c.w_before = random_1d(n), c.m_before = random_1d(n);
    for (int64_t i = 0; i < n; i++) {
        tensor_f32(c.w_before)[i] *= 0.125f;
        // No gradient and no momentum: neither rule moves, but decays.
        if (i % 5 == 0) tensor_f32(c.g)[i] = tensor_f32(c.m_before)[i] = 0;
    }
    c.sgd = (Sgd){.momentum = 0.9f, .grad_scale = 0.5f};
    c.lion = (Lion){.beta1 = 0.9f, .beta2 = 0.75f, .grad_scale = 0.5f};
    for (int group = 0; group < UPDATE_GROUPS; group++) {
        c.sgd.lr[group] = c.lion.lr[group] = 0.01f * (float)(1 + group % 3);
        c.sgd.weight_decay[group] = c.lion.weight_decay[group] = 0.1f * (float)(group % 4);
    }
    return c;
}

static void begin(Device *dev, Update *c) {
    copy(dev, c->w, c->w_before);
    copy(dev, c->m, c->m_before);
}
static void run_sgd(Device *dev, void *context) {
    Update *c = context;
    begin(dev, c);
    sgd_update(dev, c->w, c->copy, c->g, c->m, c->groups, c->sgd);
}
static void run_lion(Device *dev, void *context) {
    Update *c = context;
    begin(dev, c);
    lion_update(dev, c->w, c->copy, c->g, c->m, c->groups, c->lion);
}

// Runs the op, and compares with the reference's w and m.
static void check_results(Device *dev, Update *c, void (*run)(Device *dev, void *context)) {
    int64_t n = c->w.shape[0];
    double *w = new_doubles(n), *m = new_doubles(n);
    for (int64_t i = 0; i < n; i++) {
        double g = (double)tensor_f32(c->g)[i];
        int group = tensor_u8(c->groups)[i / UNIT];
        w[i] = (double)tensor_f32(c->w_before)[i];
        m[i] = (double)tensor_f32(c->m_before)[i];
        if (run == run_sgd)
            reference_sgd(w + i, m + i, g, group, c->sgd);
        else
            reference_lion(w + i, m + i, g, group, c->lion);
    }
    run_on(dev, run, c,
           TENSORS(&c->w, &c->copy, &c->g, &c->m, &c->groups, &c->w_before, &c->m_before));
    // A handful of roundings of values up to 2 in m; in w of steps up to 0.1 and weights up to 1/4.
    expect_near("m", c->m, m, 0, NULL, 6 * F32_EPS);
    expect_near("w", c->w, w, 0, NULL, 1 * F32_EPS);
    if (c->copy.data) expect_same_bytes("copy", c->copy, stored_as(BF16, copy_of(c->w)).data);
    if (dev->place == ON_HOST) expect_same_for_any_threads(run, c, (Tensor[]){c->w, c->m}, 2);
}

static void check_rules(Device *dev, int64_t n, bool with_copy) {
    const char *suffix = with_copy ? " and the copy" : "";
    for (int nesterov = 0; nesterov < 2; nesterov++) {
        begin_case("sgd%s on %s: %lld elements%s", nesterov ? " with Nesterov's momentum" : "",
                   dev->name, (long long)n, suffix);
        Update c = new_update(n, with_copy);
        c.sgd.nesterov = nesterov;
        check_results(dev, &c, run_sgd);
        release_all();
    }
    begin_case("lion on %s: %lld elements%s", dev->name, (long long)n, suffix);
    Update c = new_update(n, with_copy);
    check_results(dev, &c, run_lion);
    release_all();
}

// ---- the parts of Muon --------------------------------------------------------------------------

typedef struct Parts {
    Tensor u, g, m, m_before, w, w_before, copy, groups, x, x_before, squares, offsets, a, square,
        square_before;
    Momentum momentum;
    DecayedStep step;
    MatrixPolynomial polynomial;
} Parts;

static void run_momentum(Device *dev, void *context) {
    Parts *c = context;
    copy(dev, c->m, c->m_before);
    momentum_direction(dev, c->u, c->g, c->m, c->momentum);
}
static void run_step(Device *dev, void *context) {
    Parts *c = context;
    copy(dev, c->w, c->w_before);
    decayed_step(dev, c->w, c->copy, c->u, c->groups, c->step);
}
static void run_normalize(Device *dev, void *context) {
    Parts *c = context;
    copy(dev, c->x, c->x_before);
    normalize_segments(dev, c->x, c->squares, c->offsets, 0.5f);
}
static void run_polynomial(Device *dev, void *context) {
    Parts *c = context;
    copy(dev, c->square, c->square_before);
    matrix_polynomial(dev, c->square, c->a, c->polynomial);
}

static void check_momentum(Device *dev, int64_t n, bool nesterov) {
    begin_case("momentum%s on %s: %lld elements", nesterov ? " by Nesterov" : "", dev->name,
               (long long)n);
    Parts c = {.u = new_1d(F32, n), .g = random_1d(n), .m = new_1d(F32, n)};
    c.m_before = random_1d(n);
    c.momentum = (Momentum){.momentum = 0.95f, .nesterov = nesterov, .grad_scale = 0.5f};
    double *u = new_doubles(n), *m = new_doubles(n), mu = (double)c.momentum.momentum;
    for (int64_t i = 0; i < n; i++) {
        double g = 0.5 * (double)tensor_f32(c.g)[i];
        m[i] = mu * (double)tensor_f32(c.m_before)[i] + g;
        u[i] = nesterov ? g + mu * m[i] : m[i];
    }
    run_on(dev, run_momentum, &c, TENSORS(&c.u, &c.g, &c.m, &c.m_before));
    expect_near("m", c.m, m, 0, NULL, 6 * F32_EPS);
    expect_near("u", c.u, u, 0, NULL, 12 * F32_EPS);
    if (dev->place == ON_HOST)
        expect_same_for_any_threads(run_momentum, &c, (Tensor[]){c.u, c.m}, 2);
    release_all();
}

static void check_step(Device *dev, int64_t n, bool with_copy) {
    begin_case("decayed step on %s: %lld elements%s", dev->name, (long long)n,
               with_copy ? " and the copy" : "");
    Update from = new_update(n, with_copy);
    Parts c = {.w = from.w, .w_before = from.w_before, .copy = from.copy, .groups = from.groups};
    c.u = from.g;
    double *w = new_doubles(n);
    for (int group = 0; group < UPDATE_GROUPS; group++) {
        c.step.lr[group] = from.lion.lr[group];
        c.step.weight_decay[group] = from.lion.weight_decay[group];
    }
    for (int64_t i = 0; i < n; i++) {
        int group = tensor_u8(c.groups)[i / UNIT];
        w[i] = (double)tensor_f32(c.w_before)[i];
        w[i] -= (double)c.step.lr[group] *
                ((double)tensor_f32(c.u)[i] + (double)c.step.weight_decay[group] * w[i]);
    }
    run_on(dev, run_step, &c, TENSORS(&c.w, &c.w_before, &c.copy, &c.groups, &c.u));
    expect_near("w", c.w, w, 0, NULL, 1 * F32_EPS);
    if (c.copy.data) expect_same_bytes("copy", c.copy, stored_as(BF16, copy_of(c.w)).data);
    if (dev->place == ON_HOST) expect_same_for_any_threads(run_step, &c, &c.w, 1);
    release_all();
}

// Segments of these lengths, elements before and behind them.
static void check_normalize(Device *dev) {
    static const int64_t lengths[] = {5, 0, 4096, 1, 9001};
    enum { S = 5, BEFORE = 3, BEHIND = 4 };
    begin_case("normalized segments on %s", dev->name);
    Parts c = {.squares = new_1d(F64, S), .offsets = new_1d(I64, S + 1)};
    int64_t at = BEFORE;
    for (int s = 0; s < S; s++) {
        tensor_i64(c.offsets)[s] = at;
        tensor_f64(c.squares)[s] = s == 2 ? 0 : 1.0 + s * s; // as if all of it were zero
        at += lengths[s];
    }
    tensor_i64(c.offsets)[S] = at;
    c.x = new_1d(F32, at + BEHIND), c.x_before = random_1d(at + BEHIND);
    double *x = new_doubles(at + BEHIND);
    for (int64_t i = 0; i < at + BEHIND; i++) {
        x[i] = (double)tensor_f32(c.x_before)[i];
        for (int s = 0; s < S; s++)
            if (tensor_i64(c.offsets)[s] <= i && i < tensor_i64(c.offsets)[s + 1])
                x[i] /= sqrt(tensor_f64(c.squares)[s]) + 0.5;
    }
    run_on(dev, run_normalize, &c, TENSORS(&c.x, &c.x_before, &c.squares, &c.offsets));
    expect_near("x", c.x, x, 3 * F32_EPS, NULL, 0); // the factor and a product
    if (dev->place == ON_HOST) expect_same_for_any_threads(run_normalize, &c, &c.x, 1);
    release_all();
}

static void check_polynomial(Device *dev, int64_t G, int64_t n) {
    begin_case("polynomial of %lld matrices of %lld rows on %s", (long long)G, (long long)n,
               dev->name);
    Parts c = {.a = random_3d(G, n, n), .square = new_3d(F32, G, n, n)};
    c.square_before = random_3d(G, n, n);
    c.polynomial = (MatrixPolynomial){.identity = 3.5f, .linear = -4.75f, .quadratic = 2.0f};
    double *want = new_doubles(G * n * n);
    for (int64_t i = 0; i < G * n * n; i++)
        want[i] = (i / n % n == i % n ? 3.5 : 0) - 4.75 * (double)tensor_f32(c.a)[i] +
                  2 * (double)tensor_f32(c.square_before)[i];
    run_on(dev, run_polynomial, &c, TENSORS(&c.a, &c.square, &c.square_before));
    expect_near("polynomial", c.square, want, 0, NULL, 24 * F32_EPS); // of terms up to 5
    if (dev->place == ON_HOST) expect_same_for_any_threads(run_polynomial, &c, &c.square, 1);
    release_all();
}

typedef struct Average {
    Tensor average, before, w;
} Average;
static void run_average(Device *dev, void *context) {
    Average *c = context;
    copy(dev, c->average, c->before);
    moving_average(dev, c->average, c->w, 0.875f);
}

static void check_average(Device *dev, int64_t n) {
    begin_case("moving average of %lld elements on %s", (long long)n, dev->name);
    Average c = {.average = new_1d(F32, n), .before = random_1d(n), .w = random_1d(n)};
    double *want = new_doubles(n);
    for (int64_t i = 0; i < n; i++)
        want[i] = 0.875 * (double)tensor_f32(c.before)[i] + 0.125 * (double)tensor_f32(c.w)[i];
    run_on(dev, run_average, &c, TENSORS(&c.average, &c.before, &c.w));
    expect_near("average", c.average, want, 0, NULL, 3 * F32_EPS); // of values up to 1
    if (dev->place == ON_HOST) expect_same_for_any_threads(run_average, &c, &c.average, 1);
    release_all();
}

int main(int argc, char **argv) {
    if (wants_bench(argc, argv)) return 0;
    // A block of the GPU takes 1024 elements.
    static const int64_t sizes[] = {0, 16, 48, 1024, 3 * 1024 + 336};
    for (int i = 0; i < device_count(); i++)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
            for (int with_copy = 0; with_copy < 2; with_copy++)
                check_rules(device_at(i), sizes[s], with_copy);
    for (int i = 0; i < device_count(); i++) {
        Device *dev = device_at(i);
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
            for (int with = 0; with < 2; with++) {
                check_momentum(dev, sizes[s], with);
                check_step(dev, sizes[s], with);
            }
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) check_average(dev, sizes[s]);
        check_normalize(dev);
        check_polynomial(dev, 1, 1);
        check_polynomial(dev, 3, 7);
        check_polynomial(dev, 2, 48);
    }
    return failures();
}
