// Every activation against the reference on every device, also in place, and the CPU's exponential
// and normal distribution below them against libm.
#include "harness.h"
#include "reference.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/vector_math.h"

typedef struct Case {
    Tensor in, out, dout, din;
    Activation kind;
} Case;

static const char *activation_word(Activation kind) {
    return choice_row(ACTIVATION_CHOICES, (int)kind)->word;
}

static void forward(Device *dev, void *context) {
    Case *c = context;
    activation_forward(dev, c->out, c->in, c->kind);
}
static void backward(Device *dev, void *context) {
    Case *c = context;
    activation_backward(dev, c->din, c->dout, c->in, c->kind);
}
static void run_both(Device *dev, void *context) {
    Case *c = context;
    run_on(dev, forward, c, TENSORS(&c->out, &c->in));
    run_on(dev, backward, c, TENSORS(&c->din, &c->dout, &c->in));
}
// With `in` read from din.
static void run_in_place(Device *dev, void *context) {
    Case c = *(Case *)context;
    memcpy(c.din.data, c.in.data, tensor_bytes(c.in));
    c.in = c.din;
    run_on(dev, backward, &c, TENSORS(&c.din, &c.dout, &c.in));
}

static void check_on(Device *dev, int64_t N, int64_t F, DType T, Activation kind) {
    begin_case("%s %s %s N=%lld F=%lld", dev->name, activation_word(kind), dtype_name(T),
               (long long)N, (long long)F);
    int64_t W = activation_input_width(kind, F);
    Tensor in = random_2d(N, W), dout = random_2d(N, F);
    for (int64_t i = 0; i < N * W; i++) tensor_f32(in)[i] *= 20.0f; // also where σ saturates
    if (N > 2) tensor_f32(in)[0] = 200.0f, tensor_f32(in)[W] = -200.0f;
    if (N > 2) tensor_f32(in)[W - 1] = 0.0f;
    Case c = {stored_as(T, in), new_2d(T, N, F), stored_as(T, dout), new_2d(T, N, W), kind};
    double *out = new_doubles(N * F), *din = new_doubles(N * W);
    reference_activation_forward(out, tensor_f32(in), kind, N, F);
    reference_activation_backward(din, tensor_f32(dout), tensor_f32(in), kind, N, F);
    run_both(dev, &c);
    // A handful of roundings and an exponential of 2 ulp, of an argument that may be rounded
    // itself: it is at most x², or so large that the exponential is 0. Derivatives cancel: their
    // terms are below 4, and below 20 for a gate, whose upstream factor is below 20. bf16 rounds
    // the result once more.
    double eps = storage_eps(T), *unit = new_doubles(N * F);
    for (int64_t i = 0; i < N * F; i++) {
        double x = (double)tensor_f32(in)[i / F * W + i % F];
        unit[i] = fabs(out[i]) * fmin(2 * x * x, 200) + 1e-22;
    }
    expect_near("out", c.out, out, 16 * F32_EPS + eps, unit, F32_EPS);
    expect_near("din", c.din, din, 16 * F32_EPS + eps, NULL,
                kind == RELU ? 0 : (activation_is_gated(kind) ? 20 : 4) * 8 * F32_EPS);
    Tensor first = copy_of(c.din);
    run_in_place(dev, &c);
    expect_same_bytes("din in place", c.din, first.data);
    if (dev->place == ON_HOST) {
        expect_same_for_any_threads(run_both, &c, (Tensor[]){c.out, c.din}, 2);
        expect_same_for_any_threads(run_in_place, &c, &c.din, 1);
    } else { // the emulated GPU in another order of blocks, warps and lanes
        begin_other_schedule();
        run_in_place(dev, &c);
        end_other_schedule();
        expect_same_bytes("din in another order", c.din, first.data);
    }
    release_all();
}

static void check(int64_t N, int64_t F) {
    for (int i = 0; i < device_count(); i++)
        for (int kind = 0; kind < ACTIVATION_CHOICES.count; kind++) {
            check_on(device_at(i), N, F, F32, (Activation)kind);
            check_on(device_at(i), N, F, BF16, (Activation)kind);
        }
}

// NaN must come out of every kind and storage: a step with NaN is found by its loss.
static void check_nan(Device *dev) {
    for (int kind = 0; kind < ACTIVATION_CHOICES.count; kind++)
        for (int narrow = 0; narrow < 2; narrow++) {
            begin_case("%s NaN", dev->name);
            Case c = {.in = random_2d(1, activation_input_width((Activation)kind, 3)),
                      .kind = (Activation)kind};
            tensor_f32(c.in)[1] = NAN;
            if (narrow) {
                Tensor wide = c.in;
                c.in = new_2d(BF16, 1, wide.shape[1]);
                for (int64_t i = 0; i < wide.shape[1]; i++) // the upper half: exact for NaN
                    memcpy(tensor_bf16(c.in) + i, (char *)(tensor_f32(wide) + i) + 2, 2);
            }
            c.out = new_2d(c.in.dtype, 1, 3);
            run_on(dev, forward, &c, TENSORS(&c.out, &c.in));
            Tensor out = widened(c.out);
            expect(!isnan(tensor_f32(out)[0]) && isnan(tensor_f32(out)[1]), "%g %g",
                   (double)tensor_f32(out)[0], (double)tensor_f32(out)[1]);
            release_all();
        }
}

// Every 1009th f32 of the range; 2 ulp are 2.4e-7.
static void check_exp(void) {
    begin_case("exp_f32");
    double worst = 0;
    for (int sign = -1; sign <= 1; sign += 2)
        for (uint32_t bits = 0; bits < 0x42ae0000u; bits += 1009) { // up to 87
            float x;
            memcpy(&x, &bits, sizeof x);
            x *= (float)sign;
            double want = exp((double)x);
            worst = fmax(worst, fabs((double)exp_f32(x) - want) / want);
        }
    expect(worst < 2.4e-7, "relative error %.3g", worst);
    expect(exp_f32(0.0f) == 1.0f && exp_f32(-INFINITY) == 0.0f && exp_f32(-1000.0f) == 0.0f,
           "zero or large negative arguments");
    expect(exp_f32(INFINITY) == INFINITY && exp_f32(200.0f) == INFINITY, "overflow");
    expect(isnan(exp_f32(NAN)), "NaN is lost");
}

// Every 1009th f32 of the range, against libm in double; the tolerance is what vector_math.h says.
static void check_normal(void) {
    begin_case("normal_share_f32");
    double worst = 0;
    for (int sign = -1; sign <= 1; sign += 2)
        for (uint32_t bits = 0; bits < 0x41500000u; bits += 1009) { // up to 13
            float x;
            memcpy(&x, &bits, sizeof x);
            x *= (float)sign;
            double want = 0.5 * erfc(-(double)x * sqrt(0.5));
            double error = fabs((double)normal_share_f32(x) - want) / want;
            double rounded = x < 0 ? 0.5 * (double)x * (double)x * 0x1p-23 : 0;
            worst = fmax(worst, error - rounded);
            double density = exp(-0.5 * (double)x * (double)x) / sqrt(8 * atan(1));
            error = fabs((double)normal_density_f32(x) - density) / density;
            worst = fmax(worst, error - 0.5 * (double)x * (double)x * 0x1p-23);
        }
    expect(worst < 4e-7, "relative error %.3g", worst);
    expect(normal_share_f32(0.0f) == 0.5f, "%.9g for 0", (double)normal_share_f32(0.0f));
    expect(normal_share_f32(INFINITY) == 1.0f && normal_share_f32(-INFINITY) == 0.0f, "infinity");
    expect(isnan(normal_share_f32(NAN)) && isnan(normal_density_f32(NAN)), "NaN is lost");
}

// The sums of vector_math.h at lengths around its blocks: all terms are whole numbers, so sums are
// exact.
static void check_sums(void) {
    float x[200], y[200];
    for (int n = 1; n <= 200; n++) {
        begin_case("sums of %d numbers", n);
        float sum = 0, product = 0, largest = -1000;
        for (int i = 0; i < n; i++) {
            x[i] = (float)(random_below(41) - 20);
            y[i] = (float)(random_below(41) - 20);
            sum += x[i];
            product += x[i] * y[i];
            largest = fmaxf(largest, x[i]);
        }
        expect(sum_of(x, n) == sum, "sum_of");
        expect(dot_product(x, y, n) == product, "dot_product");
        expect(max_of(x, n) == largest, "max_of");
    }
}

static void bench(int64_t N, int64_t F, DType T, Activation kind) {
    int64_t W = activation_input_width(kind, F);
    for (int threads = 1; threads <= 2; threads++) {
        Device dev = open_cpu(threads);
        Case c = {stored_as(T, random_2d(N, W)), stored_as(T, random_2d(N, F)),
                  stored_as(T, random_2d(N, F)), stored_as(T, random_2d(N, W)), kind};
        double f = time_call(forward, &dev, &c), b = time_call(backward, &dev, &c);
        double bytes = 1e-9 * (double)dtype_bytes(T);
        printf("%s %s %lld x %lld, %d threads: forward %.1f GB/s; backward %.1f GB/s\n",
               activation_word(kind), dtype_name(T), (long long)N, (long long)F, threads,
               bytes * (double)(N * (W + F)) / f, bytes * (double)(N * (2 * W + F)) / b);
        release_all();
    }
}

int main(int argc, char **argv) {
    if (wants_bench(argc, argv)) {
        for (int kind = 0; kind < ACTIVATION_CHOICES.count; kind++) {
            bench(4096, 1408, F32, (Activation)kind);
            bench(4096, 1408, BF16, (Activation)kind);
        }
        return 0;
    }
    check(0, 8);
    check(1, 1);
    check(7, 19);
    check(33, 512);  // several blocks of a GPU
    check(41, 1004); // whole vectors of f32, not of bf16
    check(35, 333);
    for (int i = 0; i < device_count(); i++) check_nan(device_at(i));
    check_exp();
    check_normal();
    check_sums();
    return failures();
}
