// Rows that have their updates late have the same bits as rows that have them in time, by AdamW on
// every device: whenever they are brought up to date, and by whichever list.
#include "harness.h"

#include <math.h>
#include <string.h>

enum { STEPS = 7, UNIT = 16, STEP_ROWS = 3 };

typedef struct Case {
    int64_t R, D;
    Tensor w, copy, m, v; // (R, D): in time, of a flat range of the padded parameter
    Tensor late_w, late_copy, late_m, late_v;
    Tensor g[STEPS], marks[STEPS]; // (R, D), (R) i32
    Tensor listed, updates_listed; // (R + 1) i32, and what `updates` is when they are up to date
    Tensor groups, updates, history;
} Case;

static AdamW rule_of_step(int step) {
    AdamW rule = {.beta1 = 0.9f, .beta2 = 0.75f, .eps = 1e-6f, .grad_scale = 0.5f};
    rule.bias_correction1 = 1 - powf(0.9f, (float)(step + 1));
    rule.bias_correction2 = 1 - powf(0.75f, (float)(step + 1));
    rule.lr[0] = 0.01f * (float)(1 + step);
    rule.weight_decay[0] = 0.1f;
    return rule;
}

static void run_in_time(Device *dev, void *context) {
    Case *c = context;
    for (int step = 0; step < STEPS; step++)
        adamw_update(dev, c->w, c->copy, c->g[step], c->m, c->v, c->groups, rule_of_step(step));
}

static Tensor as_rows(const Case *c, Tensor x) {
    return x.data ? tensor_reshape_2d(tensor_range(x, 0, c->R * c->D), c->R, c->D) : x;
}

static void rows_update(Device *dev, const Case *c, Tensor g, LaggingRows rows) {
    rows.updates = c->updates;
    rows.history = c->history;
    adamw_rows(dev, as_rows(c, c->late_w), as_rows(c, c->late_copy), as_rows(c, g),
               as_rows(c, c->late_m), as_rows(c, c->late_v), rows, rule_of_step(0));
}

// Each step has the rows that its gradient is not zero of; before the fourth, some others are
// brought up to date; in the end all are.
static void run_late(Device *dev, void *context) {
    Case *c = context;
    for (int step = 0; step < STEPS; step++) {
        if (step == STEP_ROWS) {
            rows_update(dev, c, (Tensor){0}, (LaggingRows){.count = step, .listed = c->listed});
            copy(dev, c->updates_listed, c->updates);
        }
        rows_update(dev, c, c->g[step], (LaggingRows){.count = step + 1, .marks = c->marks[step]});
    }
    rows_update(dev, c, (Tensor){0}, (LaggingRows){.count = STEPS});
}

// Whether a step names a row: another few in each step, of long runs the last one; never the last
// rows.
static bool is_named(const Case *c, int64_t r, int step) {
    if (r >= c->R - 2) return false;
    return r < 128 ? (r * 7 + step * 5) % 4 == 0 : r % 64 == 63 && (r / 64 + step) % 2 == 0;
}

// Gradients of the named rows, of some only of half the elements.
static void draw_gradients(Case *c, int64_t padded) {
    for (int step = 0; step < STEPS; step++) {
        c->g[step] = new_1d(F32, padded);
        c->marks[step] = new_1d(I32, c->R);
        memset(c->g[step].data, 0, tensor_bytes(c->g[step]));
        Tensor values = random_2d(c->R, c->D);
        for (int64_t r = 0; r < c->R; r++) {
            bool named = is_named(c, r, step);
            tensor_i32(c->marks[step])[r] = named;
            int64_t from = r % 3 == 0 ? c->D / 2 : 0;
            if (named)
                memcpy(tensor_f32(c->g[step]) + r * c->D + from,
                       tensor_f32(values) + r * c->D + from, (size_t)(c->D - from) * sizeof(float));
        }
    }
}

static Tensor zeros(int64_t n) {
    Tensor x = new_1d(F32, n);
    memset(x.data, 0, tensor_bytes(x));
    return x;
}

static void check_on(Device *dev, int64_t R, int64_t D, bool with_copy) {
    begin_case("lagging rows on %s R=%lld D=%lld%s", dev->name, (long long)R, (long long)D,
               with_copy ? ", with a copy" : "");
    int64_t padded = (R * D + UNIT - 1) / UNIT * UNIT;
    Case c = {.R = R, .D = D, .w = random_1d(padded), .m = zeros(padded), .v = zeros(padded)};
    for (int64_t i = R * D; i < padded; i++) tensor_f32(c.w)[i] = 0;
    c.late_w = copy_of(c.w), c.late_m = copy_of(c.m), c.late_v = copy_of(c.v);
    if (with_copy) c.copy = stored_as(BF16, copy_of(c.w)), c.late_copy = copy_of(c.copy);
    draw_gradients(&c, padded);
    c.groups = new_1d(U8, padded / UNIT);
    memset(c.groups.data, 0, tensor_bytes(c.groups));
    c.updates = new_1d(I32, R);
    memset(c.updates.data, 0, tensor_bytes(c.updates));
    c.updates_listed = new_1d(I32, R);
    c.listed = new_1d(I32, R + 1);
    tensor_i32(c.listed)[0] = 0;
    for (int64_t r = 0; r < R; r++)
        tensor_i32(c.listed)[r + 1] =
            tensor_i32(c.listed)[r] + (r < 128 ? r % 3 == 0 : r % 64 == 63);
    c.history = new_2d(F32, STEPS + 1, UPDATE_HISTORY);
    for (int step = 0; step < STEPS; step++) {
        AdamW rule = rule_of_step(step);
        float *update = tensor_f32(c.history) + step * UPDATE_HISTORY;
        update[0] = rule.lr[0], update[1] = rule.weight_decay[0];
        update[2] = 1.0f / rule.bias_correction1, update[3] = 1.0f / rule.bias_correction2;
    }
    Tensor *tensors[] = {&c.w,         &c.copy,           &c.m,        &c.v,        &c.late_w,
                         &c.late_copy, &c.late_m,         &c.late_v,   &c.groups,   &c.listed,
                         &c.updates,   &c.updates_listed, &c.history,  &c.g[0],     &c.g[1],
                         &c.g[2],      &c.g[3],           &c.g[4],     &c.g[5],     &c.g[6],
                         &c.marks[0],  &c.marks[1],       &c.marks[2], &c.marks[3], &c.marks[4],
                         &c.marks[5],  &c.marks[6]};
    int count = (int)(sizeof tensors / sizeof *tensors);
    run_on(dev, run_in_time, &c, tensors, count);
    run_on(dev, run_late, &c, tensors, count);
    expect_same_bytes("w", c.late_w, c.w.data);
    expect_same_bytes("m", c.late_m, c.m.data);
    expect_same_bytes("v", c.late_v, c.v.data);
    if (with_copy) expect_same_bytes("copy", c.late_copy, c.copy.data);
    for (int64_t r = 0; r < R; r++)
        expect(tensor_i32(c.updates_listed)[r] == STEP_ROWS ||
                   tensor_i32(c.listed)[r + 1] == tensor_i32(c.listed)[r],
               "listed row %lld has %d updates", (long long)r,
               (int)tensor_i32(c.updates_listed)[r]);
    for (int64_t r = 0; r < R; r++)
        expect(tensor_i32(c.updates)[r] == STEPS, "row %lld has %d updates", (long long)r,
               (int)tensor_i32(c.updates)[r]);
    release_all();
}

int main(void) {
    static const int64_t shapes[][2] = {{1, 1}, {5, 16}, {12, 7}, {9, 130}, {300, 64}};
    for (int d = 0; d < device_count(); d++)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
            for (int with_copy = 0; with_copy < 2; with_copy++)
                check_on(device_at(d), shapes[s][0], shapes[s][1], with_copy);
    return failures();
}
