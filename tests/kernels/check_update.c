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

int main(int argc, char **argv) {
    if (wants_bench(argc, argv)) return 0;
    // A block of the GPU takes 1024 elements.
    static const int64_t sizes[] = {0, 16, 48, 1024, 3 * 1024 + 336};
    for (int i = 0; i < device_count(); i++)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
            for (int with_copy = 0; with_copy < 2; with_copy++)
                check_rules(device_at(i), sizes[s], with_copy);
    return failures();
}
