// Cross-entropy against the reference, in both storages, on every device.
#include "harness.h"
#include "reference.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct Case {
    Tensor losses, logits, source, targets;
    float scale;
} Case;

static Case new_case(DType T, int64_t N, int64_t V, float scale) {
    Tensor source = random_2d(N, V);
    for (int64_t i = 0; i < N * V; i++) tensor_f32(source)[i] *= 30.0f;
    Case c = {new_1d(F32, N), new_2d(T, N, V), stored_as(T, source), new_1d(I32, N), scale};
    // The ends of a row now and then: there threads and tiles end as well.
    for (int64_t n = 0; n < N; n++)
        tensor_i32(c.targets)[n] = (int32_t)(n % 4 == 1 ? V - 1 : n % 4 == 2 ? 0 : random_below(V));
    for (int64_t n = 5; n < N; n += 7) tensor_i32(c.targets)[n] = NO_TARGET;
    return c;
}

static void run(Device *dev, void *context) {
    Case *c = context;
    copy(dev, c->logits, c->source);
    cross_entropy(dev, c->losses, c->logits, c->targets, c->scale);
}

static void run_case(Device *dev, Case *c) {
    run_on(dev, run, c, TENSORS(&c->losses, &c->logits, &c->source, &c->targets));
}

// A row alone gives the bits that it has among others.
static void check_lone_row(Device *dev, const Case *c, int64_t n) {
    Case alone = *c;
    alone.losses = new_1d(F32, 1);
    alone.logits = copy_of(tensor_rows(c->logits, n, 1));
    alone.source = copy_of(tensor_rows(c->source, n, 1));
    alone.targets = copy_of(tensor_rows(c->targets, n, 1));
    run_case(dev, &alone);
    expect_same_bytes("loss of a lone row", alone.losses, tensor_f32(c->losses) + n);
    expect_same_bytes("gradient of a lone row", alone.logits, tensor_rows(c->logits, n, 1).data);
}

// On an emulated GPU, threads in another order.
static void check_order(Device *dev, const Case *c) {
    Case again = *c;
    again.losses = new_1d(F32, c->losses.shape[0]);
    again.logits = copy_of(c->source);
    begin_other_schedule();
    run_case(dev, &again);
    end_other_schedule();
    expect_same_bytes("losses in another order of threads", again.losses, c->losses.data);
    expect_same_bytes("gradient in another order of threads", again.logits, c->logits.data);
}

static void check(Device *dev, DType T, int64_t N, int64_t V) {
    begin_case("cross-entropy on %s: N=%lld V=%lld %s", dev->name, (long long)N, (long long)V,
               dtype_name(T));
    const double scale = 0.125;
    Case c = new_case(T, N, V, (float)scale);
    double *losses = new_doubles(N), *gradient = new_doubles(N * V);
    const float *wide = tensor_f32(widened(c.source));
    reference_cross_entropy(losses, gradient, wide, tensor_i32(c.targets), scale, N, V);
    run_case(dev, &c);
    // Differences of logits up to 60 are rounded to 2^-19: that is the relative error of every
    // exponential.
    expect_near("losses", c.losses, losses, 8 * F32_EPS, NULL, 64 * F32_EPS);
    // A bf16 gradient is rounded once more.
    expect_near("gradient", c.logits, gradient, 80 * F32_EPS + storage_eps(T), NULL,
                scale * 2 * F32_EPS);
    if (N > 0) check_lone_row(dev, &c, N - 1);
    if (dev->place == ON_HOST) {
        expect_same_for_any_threads(run, &c, (Tensor[]){c.losses, c.logits}, 2);
    } else {
        check_order(dev, &c);
    }
    c.scale = 0.0f;
    run_case(dev, &c);
    expect_near("losses without gradient", c.losses, losses, 8 * F32_EPS, NULL, 64 * F32_EPS);
    expect_same_bytes("logits without gradient", c.logits, c.source.data);
    release_all();
}

// Logits of -infinity have no probability and no gradient, whole runs of them included; a NaN shows
// in the loss.
static void check_special(Device *dev, DType T, int64_t V) {
    begin_case("cross-entropy on %s: special logits, V=%lld %s", dev->name, (long long)V,
               dtype_name(T));
    Tensor source = random_2d(2, V);
    float *z = tensor_f32(source);
    for (int64_t v = 0; v < V - 2; v++) z[v] = -INFINITY;
    z[V - 2] = z[V - 1] = 1.0f;
    z[V + V / 2] = NAN;
    // NaN has no nearest bf16; stored_as is for numbers.
    Case c = {new_1d(F32, 2), new_2d(T, 2, V), source, new_1d(I32, 2), 1.0f};
    if (T == BF16) {
        c.source = new_2d(BF16, 2, V);
        for (int64_t i = 0; i < 2 * V; i++) {
            uint32_t bits;
            memcpy(&bits, z + i, sizeof bits);
            tensor_bf16(c.source)[i] = (uint16_t)(bits >> 16);
        }
    }
    tensor_i32(c.targets)[0] = (int32_t)V - 1, tensor_i32(c.targets)[1] = 0;
    run_case(dev, &c);
    const float *loss = tensor_f32(c.losses), *gradient = tensor_f32(widened(c.logits));
    expect(fabs((double)loss[0] - log(2.0)) < 4 * F32_EPS, "loss %a, wanted ln 2", (double)loss[0]);
    for (int64_t v = 0; v < V - 2; v++)
        expect(gradient[v] == 0.0f, "gradient %a of no probability", (double)gradient[v]);
    expect(gradient[V - 2] == 0.5f && gradient[V - 1] == -0.5f, "gradients %a and %a of 1/2",
           (double)gradient[V - 2], (double)gradient[V - 1]);
    expect(isnan(loss[1]), "loss %a of a NaN", (double)loss[1]);
    release_all();
}

static void check_device(Device *dev) {
    // On a GPU: a warp for a row up to 256 and up to 1024, a small block up to 8192, a large one
    // beyond; by vectors where they divide V.
    static const int64_t shapes[][2] = {
        {0, 5},    {1, 1},    {9, 2},    {33, 65},  {6, 255},  {5, 256},  {2, 257},   {5, 1000},
        {3, 1024}, {3, 1025}, {3, 1032}, {2, 4099}, {3, 8192}, {2, 8193}, {2, 16408}, {1, 262144},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        check(dev, F32, shapes[i][0], shapes[i][1]);
        check(dev, BF16, shapes[i][0], shapes[i][1]);
    }
    static const int64_t widths[] = {100, 1000, 1028, 1029, 8200, 8201};
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        check_special(dev, F32, widths[i]);
        check_special(dev, BF16, widths[i]);
    }
}

int main(int argc, char **argv) {
    if (wants_bench(argc, argv)) {
        for (int threads = 1; threads <= 2; threads++) {
            Device dev = open_cpu(threads);
            Case c = new_case(F32, 2048, 8192, 1.0f);
            double seconds = time_call(run, &dev, &c);
            printf("cross-entropy 2048 x 8192 with a copy, %d threads: %.2f ms, %.1f GB/s\n",
                   threads, 1e3 * seconds, 16e-9 * 2048 * 8192 / seconds);
            release_all();
        }
        return 0;
    }
    for (int i = 0; i < device_count(); i++) check_device(device_at(i));
    return failures();
}
