// SwiGLU and ReLU against the reference, also in place, and the exponential below them against libm.
#include "harness.h"
#include "reference.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/cpu/vector_math.h"

typedef struct Case {
    Tensor in, out, dout, din;
    Activation kind;
    bool in_place;
} Case;

static void run_forward(Device *dev, void *context) {
    Case *c = context;
    activation_forward(dev, c->out, c->in, c->kind);
}
static void run_backward(Device *dev, void *context) {
    Case *c = context;
    if (c->in_place) memcpy(c->din.data, c->in.data, tensor_bytes(c->in));
    activation_backward(dev, c->din, c->dout, c->in_place ? c->din : c->in, c->kind);
}

static void check(int64_t N, int64_t F, Activation kind, bool in_place) {
    begin_case("%s N=%lld F=%lld%s", kind == SWIGLU ? "swiglu" : "relu", (long long)N, (long long)F,
               in_place ? " in place" : "");
    int64_t W = activation_input_width(kind, F);
    Case c = {random_2d(N, W), new_2d(F32, N, F), random_2d(N, F), new_2d(F32, N, W), kind,
              in_place};
    for (int64_t i = 0; i < N * W; i++) tensor_f32(c.in)[i] *= 20.0f; // also where σ saturates
    if (N > 2) tensor_f32(c.in)[0] = 200.0f, tensor_f32(c.in)[W] = -200.0f;
    double *out = new_doubles(N * F), *din = new_doubles(N * W);
    reference_activation_forward(out, tensor_f32(c.in), kind, N, F);
    reference_activation_backward(din, tensor_f32(c.dout), tensor_f32(c.in), kind, N, F);
    Device dev = open_cpu(0);
    run_forward(&dev, &c);
    run_backward(&dev, &c);
    // A handful of roundings and an exponential of 2 ulp; the derivative 1 + g(1-σ) cancels for g < 0, where
    // its terms are below 20 and the upstream factors below 20.
    expect_near("out", c.out, out, 12 * F32_EPS, NULL, 1e-30);
    expect_near("din", c.din, din, 16 * F32_EPS, NULL, kind == RELU ? 0 : 20 * 8 * F32_EPS);
    expect_same_for_any_threads(run_forward, &c, &c.out, 1);
    expect_same_for_any_threads(run_backward, &c, &c.din, 1);
    release_all();
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

// The sums of vector_math.h at lengths around its blocks: all terms are whole numbers, so sums are exact.
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

static void bench(int64_t N, int64_t F, Activation kind) {
    int64_t W = activation_input_width(kind, F);
    for (int threads = 1; threads <= 2; threads++) {
        Device dev = open_cpu(threads);
        Case c = {random_2d(N, W), random_2d(N, F), random_2d(N, F), random_2d(N, W), kind, false};
        double f = time_call(run_forward, &dev, &c), b = time_call(run_backward, &dev, &c);
        printf("%s %lld x %lld, %d threads: forward %.1f GB/s; backward %.1f GB/s\n",
               kind == SWIGLU ? "swiglu" : "relu", (long long)N, (long long)F, threads,
               4e-9 * (double)(N * (W + F)) / f, 4e-9 * (double)(N * (2 * W + F)) / b);
        release_all();
    }
}

int main(int argc, char **argv) {
    if (wants_bench(argc, argv)) {
        bench(1024, 512, RELU);
        bench(4096, 1408, SWIGLU);
        return 0;
    }
    for (int in_place = 0; in_place < 2; in_place++)
        for (int kind = SWIGLU; kind <= RELU; kind++) {
            check(0, 8, (Activation)kind, in_place);
            check(1, 1, (Activation)kind, in_place);
            check(7, 19, (Activation)kind, in_place);
            check(33, 512, (Activation)kind, in_place);
        }
    check_exp();
    check_sums();
    return failures();
}
