// Fills, copies, sums and AdamW.
#include "harness.h"
#include "reference.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct Case {
    Tensor a, b, out, sums, squares, w, g, m, v, w_before, m_before, v_before;
    int64_t parts;
    AdamW rule;
} Case;

static Case new_case(int64_t n, int64_t parts) {
    Case c = {.a = random_1d(n), .b = random_1d(n), .out = new_1d(F32, n), .parts = parts};
    c.sums = new_1d(F64, parts);
    c.squares = new_1d(F64, parts);
    c.w = new_1d(F32, n), c.m = new_1d(F32, n), c.v = new_1d(F32, n);
    c.g = random_1d(n);
    c.w_before = random_1d(n), c.m_before = random_1d(n), c.v_before = random_1d(n);
    for (int64_t i = 0; i < n; i++) tensor_f32(c.v_before)[i] = fabsf(tensor_f32(c.v_before)[i]);
    c.rule = (AdamW){.lr = 0.01f,
                     .beta1 = 0.9f,
                     .beta2 = 0.999f,
                     .eps = 1e-8f,
                     .weight_decay = 0.1f,
                     .bias_correction1 = 0.271f,
                     .bias_correction2 = 0.002997f,
                     .grad_scale = 0.5f};
    return c;
}

static void run_sums(Device *dev, void *context) {
    Case *c = context;
    add(dev, c->out, c->a, c->b);
    segment_sum(dev, c->sums, c->a, c->parts);
    sum_of_squares(dev, c->squares, tensor_reshape_2d(c->a, c->parts, c->a.shape[0] / c->parts));
}
static void run_adamw(Device *dev, void *context) {
    Case *c = context;
    adamw_update(dev, c->w, c->g, c->m, c->v, c->rule);
}
static void run_adamw_afresh(Device *dev, void *context) {
    Case *c = context;
    copy(dev, c->w, c->w_before);
    copy(dev, c->m, c->m_before);
    copy(dev, c->v, c->v_before);
    run_adamw(dev, c);
}

static void check_sums(Device *dev, Case *c) {
    int64_t n = c->a.shape[0], count = n / c->parts;
    const float *a = tensor_f32(c->a), *b = tensor_f32(c->b);
    run_sums(dev, c);
    for (int64_t i = 0; i < n; i++) expect(tensor_f32(c->out)[i] == a[i] + b[i], "add");
    double *squares = new_doubles(c->parts);
    for (int64_t p = 0; p < c->parts; p++) {
        double sum = 0;
        squares[p] = 0;
        for (int64_t i = p * count; i < (p + 1) * count; i++) {
            sum += (double)a[i];
            squares[p] += (double)a[i] * (double)a[i];
        }
        expect(tensor_f64(c->sums)[p] == sum, "segment_sum"); // its order is part of the contract
    }
    // Positive terms in double: n roundings at most.
    expect_near("sum_of_squares", c->squares, squares, 0x1p-53 * (double)(n + 1), NULL, 0);
    expect_same_for_any_threads(run_sums, c, (Tensor[]){c->out, c->sums, c->squares}, 3);
    // A row alone, off by one float, gives the same bits.
    if (count == 0) return;
    Tensor alone = new_1d(F64, 1), moved = new_2d(F32, 1, count + 1);
    float *row = tensor_f32(moved) + 1;
    memcpy(row, a + (c->parts - 1) * count, (size_t)count * sizeof *row);
    sum_of_squares(dev, alone, tensor_2d(row, F32, 1, count));
    expect_same_bytes("sum_of_squares of a lone row", alone, tensor_f64(c->squares) + c->parts - 1);
}

static void check_copies(Device *dev, Case *c) {
    copy(dev, c->out, c->a);
    expect_same_bytes("copy", c->out, c->a.data);
    Tensor bytes = new_1d(U8, 3 * c->a.shape[0] + 1);
    fill_zero(dev, bytes);
    for (int64_t i = 0; i < bytes.shape[0]; i++) expect(tensor_u8(bytes)[i] == 0, "fill_zero");
}

static void check_adamw(Device *dev, Case *c) {
    int64_t n = c->w.shape[0];
    run_adamw_afresh(dev, c);
    double *w = new_doubles(n), *m = new_doubles(n), *v = new_doubles(n), *unit = new_doubles(n);
    for (int64_t i = 0; i < n; i++) {
        w[i] = (double)tensor_f32(c->w_before)[i];
        m[i] = (double)tensor_f32(c->m_before)[i];
        v[i] = (double)tensor_f32(c->v_before)[i];
        reference_adamw(w + i, m + i, v + i, (double)tensor_f32(c->g)[i], c->rule);
        // The step divides by sqrt(v̂): its rounding errors are relative to the step itself.
        unit[i] = fabs((double)tensor_f32(c->w_before)[i]) + fabs(w[i]) + 0.01;
    }
    expect_near("m", c->m, m, 0, NULL, 4 * F32_EPS);
    // 1 - beta2 in f32 has lost ten bits; so has its share of v, which g² < 1/4 bounds.
    expect_near("v", c->v, v, 4 * F32_EPS, NULL, 4 * F32_EPS);
    expect_near("w", c->w, w, 0, unit, 16 * F32_EPS);
    expect_same_for_any_threads(run_adamw_afresh, c, (Tensor[]){c->w, c->m, c->v}, 3);
}

static void bench(int64_t n) {
    for (int threads = 1; threads <= 2; threads++) {
        Device dev = open_cpu(threads);
        Case c = new_case(n, 1);
        run_adamw_afresh(&dev, &c);
        double update = time_call(run_adamw, &dev, &c), sums = time_call(run_sums, &dev, &c);
        printf("%lld elements, %d threads: adamw %.2f ms, %.1f GB/s; three sums %.2f ms\n",
               (long long)n, threads, 1e3 * update, 28e-9 * (double)n / update, 1e3 * sums);
        release_all();
    }
}

int main(int argc, char **argv) {
    if (wants_bench(argc, argv)) {
        bench(9000000);
        return 0;
    }
    static const int64_t cases[][2] = {{0, 1}, {1, 1}, {17, 1}, {4100, 4}, {3 * 4099, 3}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        begin_case("%lld elements in %lld parts", (long long)cases[i][0], (long long)cases[i][1]);
        Case c = new_case(cases[i][0], cases[i][1]);
        Device dev = open_cpu(0);
        check_sums(&dev, &c);
        check_copies(&dev, &c);
        check_adamw(&dev, &c);
        release_all();
    }
    return failures();
}
