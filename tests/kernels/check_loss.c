// Cross-entropy against the reference.
#include "harness.h"
#include "reference.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct Case {
    Tensor losses, logits, source, targets;
    float scale;
} Case;

static Case new_case(int64_t N, int64_t V, float scale) {
    Case c = {new_1d(F32, N), new_2d(F32, N, V), random_2d(N, V), new_1d(I32, N), scale};
    for (int64_t i = 0; i < N * V; i++) tensor_f32(c.source)[i] *= 30.0f;
    for (int64_t n = 0; n < N; n++) tensor_i32(c.targets)[n] = (int32_t)random_below(V);
    return c;
}

static void run(Device *dev, void *context) {
    Case *c = context;
    memcpy(c->logits.data, c->source.data, tensor_bytes(c->logits));
    cross_entropy(dev, c->losses, c->logits, c->targets, c->scale);
}

static void check(int64_t N, int64_t V) {
    begin_case("cross-entropy N=%lld V=%lld", (long long)N, (long long)V);
    Case c = new_case(N, V, 0.125f);
    double *losses = new_doubles(N), *gradient = new_doubles(N * V);
    reference_cross_entropy(losses, gradient, tensor_f32(c.source), tensor_i32(c.targets), 0.125, N,
                            V);
    Device dev = open_cpu(0);
    run(&dev, &c);
    // Differences of logits up to 60 are rounded to 2^-19: that is the relative error of every exponential.
    expect_near("losses", c.losses, losses, 8 * F32_EPS, NULL, 64 * F32_EPS);
    expect_near("gradient", c.logits, gradient, 80 * F32_EPS, NULL, 0.125 * 2 * F32_EPS);
    expect_same_for_any_threads(run, &c, (Tensor[]){c.losses, c.logits}, 2);
    c.scale = 0.0f;
    run(&dev, &c);
    expect_near("losses without gradient", c.losses, losses, 8 * F32_EPS, NULL, 64 * F32_EPS);
    expect_same_bytes("logits without gradient", c.logits, c.source.data);
    release_all();
}

int main(int argc, char **argv) {
    if (wants_bench(argc, argv)) {
        for (int threads = 1; threads <= 2; threads++) {
            Device dev = open_cpu(threads);
            Case c = new_case(2048, 8192, 1.0f);
            double seconds = time_call(run, &dev, &c);
            printf("cross-entropy 2048 x 8192 with a copy, %d threads: %.2f ms, %.1f GB/s\n",
                   threads, 1e3 * seconds, 16e-9 * 2048 * 8192 / seconds);
            release_all();
        }
        return 0;
    }
    check(0, 5);
    check(1, 1);
    check(9, 2);
    check(33, 65);
    check(5, 1000);
    check(3, 4099);
    return failures();
}
