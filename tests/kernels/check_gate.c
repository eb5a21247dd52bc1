// Gates of a row's columns against their formula in double, on every device and in both storages;
// and the largest of the rows of each part.
#include "harness.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct Case {
    Tensor x, gate, out, dout, dx, dgate;
    Tensor x_f32, gate_f32, dout_f32; // the same numbers
    bool in_place;                    // dx is dout
} Case;

static Case new_case(DType T, int64_t N, int64_t W, int64_t G, bool in_place) {
    Case c = {.in_place = in_place};
    c.x_f32 = random_2d(N, W);
    c.gate_f32 = random_2d(N, G);
    for (int64_t i = 0; i < N * G; i++) tensor_f32(c.gate_f32)[i] *= 6.0f;
    c.dout_f32 = random_2d(N, W);
    c.x = stored_as(T, c.x_f32);
    c.gate = stored_as(T, c.gate_f32);
    c.dout = stored_as(T, c.dout_f32);
    c.out = new_2d(T, N, W);
    c.dx = new_2d(T, N, W);
    c.dgate = new_2d(T, N, G);
    return c;
}

static void run_ops(Device *dev, void *context) {
    Case *c = context;
    gate_forward(dev, c->out, c->x, c->gate);
    if (c->in_place) copy(dev, c->dx, c->dout);
    gate_backward(dev, c->dx, c->dgate, c->in_place ? c->dx : c->dout, c->x, c->gate);
}

static void check_on(Device *dev, DType T, int64_t N, int64_t W, int64_t G, bool in_place) {
    begin_case("%s %s: %lld rows of %lld with %lld gates%s", dev->name, dtype_name(T), (long long)N,
               (long long)W, (long long)G, in_place ? ", in place" : "");
    Case c = new_case(T, N, W, G, in_place);
    run_on(dev, run_ops, &c, TENSORS(&c.x, &c.gate, &c.out, &c.dout, &c.dx, &c.dgate));
    double *out = new_doubles(N * W), *dx = new_doubles(N * W), *dgate = new_doubles(N * G);
    const float *x = tensor_f32(c.x_f32), *dout = tensor_f32(c.dout_f32);
    for (int64_t i = 0; i < N * G; i++) {
        double open = 1 / (1 + exp(-(double)tensor_f32(c.gate_f32)[i])), sum = 0;
        for (int64_t k = i * (W / G); k < (i + 1) * (W / G); k++) {
            out[k] = (double)x[k] * open;
            dx[k] = (double)dout[k] * open;
            sum += (double)x[k] * (double)dout[k];
        }
        dgate[i] = sum * open * (1 - open);
    }
    // The exponential is right within 2 ulp, of numbers below 1; a gate's sum has W / G terms below
    // 1, each with a rounding.
    expect_near("out", c.out, out, storage_eps(T), NULL, 8 * F32_EPS);
    expect_near("dx", c.dx, dx, storage_eps(T), NULL, 8 * F32_EPS);
    expect_near("dgate", c.dgate, dgate, storage_eps(T), NULL, F32_EPS * (8 + 2 * (double)(W / G)));
    if (dev->place == ON_HOST)
        expect_same_for_any_threads(run_ops, &c, (Tensor[]){c.out, c.dx, c.dgate}, 3);
    release_all();
}

static void check(int64_t N, int64_t W, int64_t G) {
    for (int i = 0; i < device_count(); i++)
        for (int kind = 0; kind < 4; kind++)
            check_on(device_at(i), kind % 2 ? BF16 : F32, N, W, G, kind / 2);
}

typedef struct MaxCase {
    Tensor maxima, x;
} MaxCase;

static void run_max(Device *dev, void *context) {
    MaxCase *c = context;
    segment_max(dev, c->maxima, 1, c->x);
}

// Exact, and other columns stay.
static void check_max(int64_t parts, int64_t rows, int64_t H) {
    for (int i = 0; i < device_count(); i++) {
        begin_case("%s: the largest of %lld x %lld rows of %lld", device_at(i)->name,
                   (long long)parts, (long long)rows, (long long)H);
        MaxCase c = {new_2d(F64, parts, H + 2), random_2d(parts * rows, H)};
        memset(c.maxima.data, 0, tensor_bytes(c.maxima));
        for (int64_t k = 0; k < parts * rows * H; k++) tensor_f32(c.x)[k] -= 2.0f; // all negative
        Tensor want = copy_of(c.maxima);
        for (int64_t p = 0; p < parts; p++)
            for (int64_t h = 0; h < H; h++) {
                double largest = -INFINITY;
                for (int64_t n = p * rows; n < (p + 1) * rows; n++)
                    largest = fmax(largest, (double)tensor_f32(c.x)[n * H + h]);
                tensor_f64(want)[p * (H + 2) + 1 + h] = largest;
            }
        run_on(device_at(i), run_max, &c, TENSORS(&c.maxima, &c.x));
        expect_same_bytes("maxima", c.maxima, want.data);
        release_all();
    }
}

int main(void) {
    check(7, 24, 3);
    check(3, 33, 33);
    check(2, 200, 1);
    check(1, 5, 5);
    check(0, 8, 2);
    check_max(4, 5, 3);
    check_max(1, 1, 1);
    check_max(2, 70, 8);
    return failures();
}
