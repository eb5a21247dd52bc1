// RMSNorm, with and without a branch that the residual stream takes in, against the reference on
// every device.
#include "harness.h"
#include "reference.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const float eps = 1e-5f;

typedef enum Form { PLAIN, BRANCH, IN_PLACE } Form; // no branch; one; one, and sum is x

typedef struct Case {
    Tensor x, branch, sum, weight, out, rstd, dout, dx, dweight, partial;
    Tensor x_before, dx_before;
    Tensor dout_f32; // the same numbers as dout
    int64_t parts;
} Case;

static Case new_case(int64_t N, int64_t D, int64_t parts, DType T, Form form) {
    Case c = {.x = random_2d(N, D), .weight = random_1d(D), .parts = parts};
    if (N > 1) memset(c.x.data, 0, (size_t)D * sizeof(float)); // a row of zeros is finite
    c.x_before = copy_of(c.x);
    if (form != PLAIN) c.branch = stored_as(T, random_2d(N, D));
    if (N > 1 && form != PLAIN) memset(c.branch.data, 0, (size_t)D * dtype_bytes(T));
    if (form != PLAIN) c.sum = form == IN_PLACE ? c.x : new_2d(F32, N, D);
    c.out = new_2d(T, N, D);
    c.rstd = new_1d(F32, N);
    c.dout_f32 = random_2d(N, D);
    c.dout = stored_as(T, c.dout_f32);
    c.dx_before = random_2d(N, D);
    c.dx = copy_of(c.dx_before);
    c.dweight = new_1d(F32, D);
    c.partial = new_2d(F32, parts, D);
    return c;
}

static void forward(Device *dev, void *context) {
    Case *c = context;
    rmsnorm_forward(dev, c->out, c->rstd, c->sum, c->x, c->branch, c->weight, eps);
}
static void backward(Device *dev, void *context) {
    Case *c = context;
    rmsnorm_backward(dev, c->dx, c->dweight, c->dout, c->branch.data ? c->sum : c->x, c->rstd,
                     c->weight, c->parts, c->partial);
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
           TENSORS(&c->x, &c->branch, &c->sum, &c->weight, &c->out, &c->rstd, &c->dout, &c->dx,
                   &c->dweight, &c->partial));
}

// The case's last rows alone, with everything that belongs to all rows.
static Case last_rows(Case c, int64_t rows) {
    Case last = c;
    Tensor *const by_row[] = {&last.x,    &last.branch, &last.sum,      &last.out,      &last.rstd,
                              &last.dout, &last.dx,     &last.x_before, &last.dx_before};
    for (size_t i = 0; i < sizeof by_row / sizeof *by_row; i++)
        if (by_row[i]->data)
            *by_row[i] = copy_of(tensor_rows(*by_row[i], c.x.shape[0] - rows, rows));
    if (c.sum.data == c.x.data) last.sum = last.x;
    last.parts = 1;
    last.dweight = new_1d(F32, c.x.shape[1]);
    last.partial = new_2d(F32, 1, c.x.shape[1]);
    return last;
}

// A row's bits depend on the row alone.
static void check_rows_alone(Device *dev, Case c, int64_t rows) {
    Case last = last_rows(c, rows);
    int64_t first = c.x.shape[0] - rows;
    run_both(dev, &last);
    expect_same_bytes("out of the last rows", last.out, tensor_rows(c.out, first, rows).data);
    expect_same_bytes("rstd of the last rows", last.rstd, tensor_rows(c.rstd, first, rows).data);
    expect_same_bytes("dx of the last rows", last.dx, tensor_rows(c.dx, first, rows).data);
}

// The emulated GPU runs blocks, warps and lanes in another order: no bit may change. (A GPU does so
// by itself.)
static void check_another_order(Device *dev, Case *c) {
    Tensor outputs[] = {c->out, c->rstd, c->dx, c->dweight};
    void *first[4];
    for (int i = 0; i < 4; i++) first[i] = copy_of(outputs[i]).data;
    begin_other_schedule();
    run_both(dev, c);
    end_other_schedule();
    for (int i = 0; i < 4; i++) expect_same_bytes("output in another order", outputs[i], first[i]);
}

static const char *const form_names[] = {"", " branch", " in place"};

static void check_on(Device *dev, int64_t N, int64_t D, int64_t parts, DType T, Form form) {
    begin_case("%s rmsnorm %s%s N=%lld D=%lld parts=%lld", dev->name, dtype_name(T),
               form_names[form], (long long)N, (long long)D, (long long)parts);
    Case c = new_case(N, D, parts, T, form);
    Tensor total = copy_of(c.x);
    if (form != PLAIN) {
        const float *branch = tensor_f32(widened(c.branch));
        for (int64_t i = 0; i < N * D; i++) tensor_f32(total)[i] += branch[i];
    }
    double *out = new_doubles(N * D), *rstd = new_doubles(N), *dx = new_doubles(N * D);
    double *dweight = new_doubles(D), *unit = new_doubles(D), *dx_unit = new_doubles(N * D);
    reference_rmsnorm_forward(out, rstd, tensor_f32(total), tensor_f32(c.weight), eps, N, D);
    reference_rmsnorm_backward(dx, dweight, unit, tensor_f32(c.dout_f32), tensor_f32(total),
                               tensor_f32(c.weight), eps, N, D);
    for (int64_t i = 0; i < N * D; i++) {
        dx[i] += (double)tensor_f32(c.dx_before)[i];
        dx_unit[i] = 1.0 + rstd[i / D]; // both terms carry the factor rstd, the rest is below 1
    }
    run_both(dev, &c);
    // One addition, rounded once: exact on every device.
    if (form != PLAIN) expect_same_bytes("sum", c.sum, total.data);
    // A sum of D squares: all terms positive, relative error about √D roundings.
    double sum_error = F32_EPS * (8.0 + sqrt((double)D));
    expect_near("rstd", c.rstd, rstd, sum_error, NULL, 0);
    // What is stored as bf16 is rounded once more; its smallest numbers lie 2^-133 apart, far below
    // 1e-30.
    expect_near("out", c.out, out, sum_error + storage_eps(T), NULL, T == BF16 ? 1e-30 : 0);
    expect_near("dx", c.dx, dx, 0, dx_unit, 4 * sum_error);
    expect_near("dweight", c.dweight, dweight, 0, unit, F32_EPS * (16.0 + 4 * sqrt((double)N)));
    if (dev->place == ON_HOST) {
        expect_same_for_any_threads(run_both, &c, (Tensor[]){c.out, c.rstd, c.dx, c.dweight}, 4);
    } else {
        check_another_order(dev, &c);
    }
    if (N > 1) check_rows_alone(dev, c, (N + 2) / 3);
    release_all();
}

static void check(int64_t N, int64_t D, int64_t parts) {
    for (int i = 0; i < device_count(); i++) {
        check_on(device_at(i), N, D, parts, F32, PLAIN);
        check_on(device_at(i), N, D, parts, F32, BRANCH);
        check_on(device_at(i), N, D, parts, BF16, BRANCH);
        if (N * D > 1 << 13) continue; // the same ways once more
        check_on(device_at(i), N, D, parts, BF16, PLAIN);
        check_on(device_at(i), N, D, parts, F32, IN_PLACE);
        check_on(device_at(i), N, D, parts, BF16, IN_PLACE);
    }
}

static void run_backward(Device *dev, void *context) {
    Case *c = context;
    run_on(dev, backward, c,
           TENSORS(&c->x, &c->rstd, &c->weight, &c->dout, &c->dx, &c->dweight, &c->partial));
}

// Four parts must be the tree of four separate ops, bit by bit.
static void check_tree(Device *dev, int64_t N, int64_t D, DType T) {
    enum { PARTS = 4 };
    begin_case("%s rmsnorm tree %s N=%lld D=%lld", dev->name, dtype_name(T), (long long)N,
               (long long)D);
    Case c = new_case(PARTS * N, D, PARTS, T, PLAIN);
    run_both(dev, &c);
    float *part[PARTS];
    for (int p = 0; p < PARTS; p++) {
        Case one = {.x = tensor_rows(c.x, p * N, N),
                    .rstd = tensor_rows(c.rstd, p * N, N),
                    .weight = c.weight,
                    .dout = tensor_rows(c.dout, p * N, N),
                    .dx = tensor_rows(c.dx, p * N, N),
                    .dweight = new_1d(F32, D),
                    .partial = new_2d(F32, 1, D),
                    .parts = 1};
        run_backward(dev, &one);
        part[p] = tensor_f32(one.dweight);
    }
    for (int64_t d = 0; d < D; d++)
        part[0][d] = (part[0][d] + part[1][d]) + (part[2][d] + part[3][d]);
    expect_same_bytes("dweight", c.dweight, part[0]);
    release_all();
}

static void bench(int64_t N, int64_t D, DType T) {
    for (int threads = 1; threads <= 2; threads++) {
        Device dev = open_cpu(threads);
        Case c = new_case(N, D, 1, T, PLAIN);
        run_both(&dev, &c);
        double row_bytes = 4.0 * (double)(N * D);
        double f = time_call(forward, &dev, &c), b = time_call(backward, &dev, &c);
        printf("rmsnorm %s %lld x %lld, %d threads: forward %.1f us, %.1f GB/s; backward %.1f us, "
               "%.1f GB/s\n",
               dtype_name(T), (long long)N, (long long)D, threads, 1e6 * f, 2e-9 * row_bytes / f,
               1e6 * b, 4e-9 * row_bytes / b);
        release_all();
    }
}

int main(int argc, char **argv) {
    if (wants_bench(argc, argv)) {
        bench(512, 128, F32);
        bench(2048, 512, F32);
        bench(2048, 512, BF16);
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
    for (int i = 0; i < device_count(); i++) {
        check_tree(device_at(i), 24, 130, F32);
        check_tree(device_at(i), 13, 17, BF16);
        check_tree(device_at(i), 19, 600, F32);
        check_tree(device_at(i), 8200, 1, F32); // longer runs of rows, by the rows of a part
    }
    return failures();
}
