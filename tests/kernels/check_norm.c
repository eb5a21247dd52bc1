// RMSNorm against the reference.
#include "harness.h"
#include "reference.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const float eps = 1e-5f;

typedef struct Case {
    Tensor x, weight, out, rstd, dout, dx, dx_before, dweight, partial;
    int64_t parts;
} Case;

static Case new_case(int64_t N, int64_t D, int64_t parts) {
    return (Case){random_2d(N, D),       random_1d(D),
                  new_2d(F32, N, D),     new_1d(F32, N),
                  random_2d(N, D),       new_2d(F32, N, D),
                  random_2d(N, D),       new_1d(F32, D),
                  new_2d(F32, parts, D), parts};
}

static void run_forward(Device *dev, void *context) {
    Case *c = context;
    rmsnorm_forward(dev, c->out, c->rstd, c->x, c->weight, eps);
}
static void run_backward(Device *dev, void *context) {
    Case *c = context;
    rmsnorm_backward(dev, c->dx, c->dweight, c->dout, c->x, c->rstd, c->weight, c->parts,
                     c->partial);
}
static void run_both(Device *dev, void *context) {
    Case *c = context;
    memcpy(c->dx.data, c->dx_before.data, tensor_bytes(c->dx));
    run_forward(dev, c);
    run_backward(dev, c);
}

static void check(int64_t N, int64_t D, int64_t parts) {
    begin_case("rmsnorm N=%lld D=%lld parts=%lld", (long long)N, (long long)D, (long long)parts);
    Case c = new_case(N, D, parts);
    if (N > 1) memset(c.x.data, 0, (size_t)D * sizeof(float)); // a row of zeros is finite
    double *out = new_doubles(N * D), *rstd = new_doubles(N), *dx = new_doubles(N * D);
    double *dweight = new_doubles(D), *unit = new_doubles(D), *dx_unit = new_doubles(N * D);
    reference_rmsnorm_forward(out, rstd, tensor_f32(c.x), tensor_f32(c.weight), eps, N, D);
    reference_rmsnorm_backward(dx, dweight, unit, tensor_f32(c.dout), tensor_f32(c.x),
                               tensor_f32(c.weight), eps, N, D);
    for (int64_t i = 0; i < N * D; i++) {
        dx[i] += (double)tensor_f32(c.dx_before)[i];
        dx_unit[i] = 1.0 + rstd[i / D]; // both terms carry the factor rstd, the rest is below 1
    }
    Device dev = open_cpu(0);
    run_both(&dev, &c);
    // A sum of D squares: all terms positive, relative error about √D roundings.
    double sum_error = F32_EPS * (8.0 + sqrt((double)D));
    expect_near("rstd", c.rstd, rstd, sum_error, NULL, 0);
    expect_near("out", c.out, out, sum_error, NULL, 0);
    expect_near("dx", c.dx, dx, 0, dx_unit, 4 * sum_error);
    expect_near("dweight", c.dweight, dweight, 0, unit, F32_EPS * (16.0 + 4 * sqrt((double)N)));
    expect_same_for_any_threads(run_both, &c, (Tensor[]){c.out, c.rstd, c.dx, c.dweight}, 4);
    release_all();
}

// Two parts must be the sum of two separate ops, bit by bit.
static void check_tree(int64_t N, int64_t D) {
    begin_case("rmsnorm tree N=%lld D=%lld", (long long)N, (long long)D);
    Case c = new_case(2 * N, D, 2);
    Device dev = open_cpu(0);
    run_both(&dev, &c);
    Tensor half[2];
    for (int p = 0; p < 2; p++) {
        half[p] = new_1d(F32, D);
        rmsnorm_backward(&dev, tensor_rows(c.dx, p * N, N), half[p], tensor_rows(c.dout, p * N, N),
                         tensor_rows(c.x, p * N, N), tensor_rows(c.rstd, p * N, N), c.weight, 1,
                         new_2d(F32, 1, D));
    }
    add(&dev, half[0], half[0], half[1]);
    expect_same_bytes("dweight", c.dweight, half[0].data);
    release_all();
}

static void bench(int64_t N, int64_t D) {
    for (int threads = 1; threads <= 2; threads++) {
        Device dev = open_cpu(threads);
        Case c = new_case(N, D, 1);
        run_both(&dev, &c);
        double row_bytes = 4.0 * (double)(N * D);
        double f = time_call(run_forward, &dev, &c), b = time_call(run_backward, &dev, &c);
        printf("rmsnorm %lld x %lld, %d threads: forward %.1f us, %.1f GB/s; backward %.1f us, "
               "%.1f GB/s\n",
               (long long)N, (long long)D, threads, 1e6 * f, 2e-9 * row_bytes / f, 1e6 * b,
               4e-9 * row_bytes / b);
        release_all();
    }
}

int main(int argc, char **argv) {
    if (wants_bench(argc, argv)) {
        bench(512, 128);
        bench(2048, 512);
        return 0;
    }
    check(1, 1, 1);
    check(0, 16, 1);
    check(5, 3, 1);
    check(12, 17, 4);
    check(64, 128, 2);
    check(40, 333, 1);
    check(256, 512, 4);
    check_tree(24, 130);
    return failures();
}
