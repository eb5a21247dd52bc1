// Every norm, with and without a branch that the residual stream takes in, against the reference on
// every device.
#include "harness.h"
#include "reference.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum Form { PLAIN, BRANCH, IN_PLACE } Form; // no branch; one; one, and sum is x

typedef struct Case {
    Tensor x, branch, sum, weight, bias, out, statistics, dout, dx, dweight, dbias, partial;
    Tensor x_before, dx_before;
    Tensor dout_f32; // the same numbers as dout
    NormRule rule;
} Case;

static const char *norm_word(NormKind kind) {
    return choice_row(NORM_CHOICES, (int)kind)->word;
}

// What a backward pass writes, of one part or more.
static void new_sums(Case *c, int64_t parts) {
    int64_t D = c->x.shape[1];
    bool bias = norm_has_bias(c->rule.kind);
    c->dweight = new_1d(F32, D);
    if (bias) c->dbias = new_1d(F32, D);
    c->partial = new_2d(F32, parts, bias ? 2 * D : D);
}

static Case new_case(int64_t N, int64_t D, int64_t parts, DType T, Form form, NormKind kind) {
    Case c = {.x = random_2d(N, D), .weight = random_1d(D), .rule = {kind, 1e-5f}};
    if (norm_has_bias(kind)) c.bias = random_1d(D);
    if (N > 1) memset(c.x.data, 0, (size_t)D * sizeof(float)); // a row of zeros is finite
    c.x_before = copy_of(c.x);
    if (form != PLAIN) c.branch = stored_as(T, random_2d(N, D));
    if (N > 1 && form != PLAIN) memset(c.branch.data, 0, (size_t)D * dtype_bytes(T));
    if (form != PLAIN) c.sum = form == IN_PLACE ? c.x : new_2d(F32, N, D);
    c.out = new_2d(T, N, D);
    c.statistics = new_2d(F32, norm_statistics(kind), N);
    c.dout_f32 = random_2d(N, D);
    c.dout = stored_as(T, c.dout_f32);
    c.dx_before = random_2d(N, D);
    c.dx = copy_of(c.dx_before);
    new_sums(&c, parts);
    return c;
}

static void forward(Device *dev, void *context) {
    Case *c = context;
    normalize_forward(dev, c->out, c->statistics, c->sum, c->x, c->branch,
                      (NormParams){c->weight, c->bias}, c->rule);
}
static void backward(Device *dev, void *context) {
    Case *c = context;
    normalize_backward(dev, c->dx, (NormParams){c->dweight, c->dbias}, c->dout,
                       c->branch.data ? c->sum : c->x, c->statistics,
                       (NormParams){c->weight, c->bias}, c->rule, c->partial);
}
static void both(Device *dev, void *context) {
    forward(dev, context);
    backward(dev, context);
}

static void run_both(Device *dev, void *context) {
    Case *c = context;
    memcpy(c->x.data, c->x_before.data, tensor_bytes(c->x));
    memcpy(c->dx.data, c->dx_before.data, tensor_bytes(c->dx));
    run_on(dev, both, c,
           TENSORS(&c->x, &c->branch, &c->sum, &c->weight, &c->bias, &c->out, &c->statistics,
                   &c->dout, &c->dx, &c->dweight, &c->dbias, &c->partial));
}

// Rows [first, first + rows) of the numbers of each row.
static Tensor statistics_of(Tensor statistics, int64_t first, int64_t rows) {
    Tensor some = new_2d(F32, statistics.shape[0], rows);
    for (int64_t i = 0; i < statistics.shape[0]; i++)
        memcpy(tensor_f32(some) + i * rows,
               tensor_f32(statistics) + i * statistics.shape[1] + first,
               (size_t)rows * sizeof(float));
    return some;
}

// The case's last rows alone, with everything that belongs to all rows.
static Case last_rows(Case c, int64_t rows) {
    Case last = c;
    Tensor *const by_row[] = {&last.x,    &last.branch, &last.sum,      &last.out,
                              &last.dout, &last.dx,     &last.x_before, &last.dx_before};
    for (size_t i = 0; i < sizeof by_row / sizeof *by_row; i++)
        if (by_row[i]->data)
            *by_row[i] = copy_of(tensor_rows(*by_row[i], c.x.shape[0] - rows, rows));
    if (c.sum.data == c.x.data) last.sum = last.x;
    last.statistics = new_2d(F32, c.statistics.shape[0], rows);
    new_sums(&last, 1);
    return last;
}

// A row's bits depend on the row alone.
static void check_rows_alone(Device *dev, Case c, int64_t rows) {
    Case last = last_rows(c, rows);
    int64_t first = c.x.shape[0] - rows;
    run_both(dev, &last);
    expect_same_bytes("out of the last rows", last.out, tensor_rows(c.out, first, rows).data);
    expect_same_bytes("statistics of the last rows", last.statistics,
                      statistics_of(c.statistics, first, rows).data);
    expect_same_bytes("dx of the last rows", last.dx, tensor_rows(c.dx, first, rows).data);
}

// The emulated GPU runs blocks, warps and lanes in another order: no bit may change. (A GPU does so
// by itself.)
static void check_another_order(Device *dev, Case *c) {
    Tensor outputs[] = {c->out, c->statistics, c->dx, c->dweight, c->dbias};
    int count = c->dbias.data ? 5 : 4;
    void *first[5];
    for (int i = 0; i < count; i++) first[i] = copy_of(outputs[i]).data;
    begin_other_schedule();
    run_both(dev, c);
    end_other_schedule();
    for (int i = 0; i < count; i++)
        expect_same_bytes("output in another order", outputs[i], first[i]);
}

static const char *const form_names[] = {"", " branch", " in place"};

static void check_on(Device *dev, int64_t N, int64_t D, int64_t parts, DType T, Form form,
                     NormKind kind) {
    begin_case("%s %s %s%s N=%lld D=%lld parts=%lld", dev->name, norm_word(kind), dtype_name(T),
               form_names[form], (long long)N, (long long)D, (long long)parts);
    Case c = new_case(N, D, parts, T, form, kind);
    Tensor total = copy_of(c.x);
    if (form != PLAIN) {
        const float *branch = tensor_f32(widened(c.branch));
        for (int64_t i = 0; i < N * D; i++) tensor_f32(total)[i] += branch[i];
    }
    double *out = new_doubles(N * D), *statistics = new_doubles(2 * N), *dx = new_doubles(N * D);
    double *dweight = new_doubles(D), *dbias = c.bias.data ? new_doubles(D) : NULL;
    double *unit = new_doubles(2 * D), *dx_unit = new_doubles(N * D),
           *out_unit = new_doubles(N * D);
    const float *bias = c.bias.data ? tensor_f32(c.bias) : NULL;
    reference_normalize_forward(out, statistics, tensor_f32(total), tensor_f32(c.weight), bias,
                                c.rule, N, D);
    reference_normalize_backward(dx, dweight, dbias, unit, tensor_f32(c.dout_f32),
                                 tensor_f32(total), tensor_f32(c.weight), c.rule, N, D);
    for (int64_t i = 0; i < N * D; i++) {
        dx[i] += (double)tensor_f32(c.dx_before)[i];
        // All terms carry the factor rstd, the rest is below 1; x and branch are below 1 each.
        dx_unit[i] = 1.0 + statistics[i / D];
        out_unit[i] = bias ? 1.0 + 2 * statistics[i / D] : T == BF16 ? 1e-22 : 0;
    }
    run_both(dev, &c);
    // One addition, rounded once: exact on every device.
    if (form != PLAIN) expect_same_bytes("sum", c.sum, total.data);
    // A sum of D squares: all terms positive, relative error about √D roundings. A mean is one of
    // D terms below 2.
    double sum_error = F32_EPS * (8.0 + sqrt((double)D));
    expect_near("statistics", c.statistics, statistics, sum_error, NULL,
                norm_statistics(kind) > 1 ? 2 * sum_error : 0);
    // What is stored as bf16 is rounded once more; its smallest numbers lie 2^-133 apart, far below
    // 1e-30. A bias, or a mean, cancels with what it is added to.
    expect_near("out", c.out, out, sum_error + storage_eps(T), out_unit, sum_error);
    expect_near("dx", c.dx, dx, 0, dx_unit, 4 * sum_error);
    double column_error = F32_EPS * (16.0 + 4 * sqrt((double)N));
    expect_near("dweight", c.dweight, dweight, 0, unit, column_error);
    if (bias) expect_near("dbias", c.dbias, dbias, 0, unit + D, column_error);
    if (dev->place == ON_HOST) {
        expect_same_for_any_threads(
            run_both, &c, (Tensor[]){c.out, c.statistics, c.dx, c.dweight, c.dbias}, bias ? 5 : 4);
    } else {
        check_another_order(dev, &c);
    }
    if (N > 1) check_rows_alone(dev, c, (N + 2) / 3);
    release_all();
}

static void check(int64_t N, int64_t D, int64_t parts) {
    for (int i = 0; i < device_count(); i++)
        for (int kind = 0; kind < NORM_CHOICES.count; kind++) {
            Device *dev = device_at(i);
            check_on(dev, N, D, parts, F32, PLAIN, (NormKind)kind);
            check_on(dev, N, D, parts, F32, BRANCH, (NormKind)kind);
            check_on(dev, N, D, parts, BF16, BRANCH, (NormKind)kind);
            if (N * D > 1 << 13) continue; // the same ways once more
            check_on(dev, N, D, parts, BF16, PLAIN, (NormKind)kind);
            check_on(dev, N, D, parts, F32, IN_PLACE, (NormKind)kind);
            check_on(dev, N, D, parts, BF16, IN_PLACE, (NormKind)kind);
        }
}

static void run_backward(Device *dev, void *context) {
    Case *c = context;
    run_on(dev, backward, c,
           TENSORS(&c->x, &c->statistics, &c->weight, &c->bias, &c->dout, &c->dx, &c->dweight,
                   &c->dbias, &c->partial));
}

// Four parts must be the tree of four separate ops, bit by bit.
static void check_tree(Device *dev, int64_t N, int64_t D, DType T, NormKind kind) {
    enum { PARTS = 4 };
    begin_case("%s %s tree %s N=%lld D=%lld", dev->name, norm_word(kind), dtype_name(T),
               (long long)N, (long long)D);
    Case c = new_case(PARTS * N, D, PARTS, T, PLAIN, kind);
    run_both(dev, &c);
    float *part[PARTS], *bias_part[PARTS] = {0};
    for (int p = 0; p < PARTS; p++) {
        Case one = {.x = tensor_rows(c.x, p * N, N),
                    .statistics = statistics_of(c.statistics, p * N, N),
                    .weight = c.weight,
                    .bias = c.bias,
                    .dout = tensor_rows(c.dout, p * N, N),
                    .dx = tensor_rows(c.dx, p * N, N),
                    .rule = c.rule};
        new_sums(&one, 1);
        run_backward(dev, &one);
        part[p] = tensor_f32(one.dweight);
        if (c.bias.data) bias_part[p] = tensor_f32(one.dbias);
    }
    for (int64_t d = 0; d < D; d++) {
        part[0][d] = (part[0][d] + part[1][d]) + (part[2][d] + part[3][d]);
        if (c.bias.data)
            bias_part[0][d] =
                (bias_part[0][d] + bias_part[1][d]) + (bias_part[2][d] + bias_part[3][d]);
    }
    expect_same_bytes("dweight", c.dweight, part[0]);
    if (c.bias.data) expect_same_bytes("dbias", c.dbias, bias_part[0]);
    release_all();
}

static void bench(int64_t N, int64_t D, DType T, NormKind kind) {
    for (int threads = 1; threads <= 2; threads++) {
        Device dev = open_cpu(threads);
        Case c = new_case(N, D, 1, T, PLAIN, kind);
        run_both(&dev, &c);
        double row_bytes = 4.0 * (double)(N * D);
        double f = time_call(forward, &dev, &c), b = time_call(backward, &dev, &c);
        printf("%s %s %lld x %lld, %d threads: forward %.1f us, %.1f GB/s; backward %.1f us, "
               "%.1f GB/s\n",
               norm_word(kind), dtype_name(T), (long long)N, (long long)D, threads, 1e6 * f,
               2e-9 * row_bytes / f, 1e6 * b, 4e-9 * row_bytes / b);
        release_all();
    }
}

int main(int argc, char **argv) {
    if (wants_bench(argc, argv)) {
        for (int kind = 0; kind < NORM_CHOICES.count; kind++) {
            bench(512, 128, F32, (NormKind)kind);
            bench(2048, 512, F32, (NormKind)kind);
            bench(2048, 512, BF16, (NormKind)kind);
        }
        return 0;
    }
    check(0, 16, 1);
    check(1, 1, 1);
    check(5, 3, 1);
    check(12, 17, 4);
    check(64, 128, 2);
    check(40, 333, 1);
    check(130, 512, 2); // the widest row of a warp
    check(300, 33, 1);  // more runs of rows than a block of the last sum has warps
    check(3, 513, 1);   // the narrowest of a block
    check(36, 520, 2);
    check(18, 1004, 1); // whole vectors of f32, not of bf16
    check(2, 8200, 1);  // wider than the registers of a block
    check(3, 8203, 1);
    for (int i = 0; i < device_count(); i++)
        for (int kind = 0; kind < NORM_CHOICES.count; kind++) {
            Device *dev = device_at(i);
            check_tree(dev, 24, 130, F32, (NormKind)kind);
            check_tree(dev, 13, 17, BF16, (NormKind)kind);
            check_tree(dev, 19, 600, F32, (NormKind)kind);
            check_tree(dev, 8200, 1, F32, (NormKind)kind); // longer runs of rows
        }
    return failures();
}
