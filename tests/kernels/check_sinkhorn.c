// Sinkhorn's iterations against their formula in double, on every device; that enough of them even
// out the load; and that a part's bias does not depend on the others.
#include "harness.h"

#include <math.h>
#include <stdio.h>

typedef struct Case {
    Tensor bias, logits, a, c;
    int64_t iterations;
} Case;

static void run(Device *dev, void *context) {
    Case *c = context;
    sinkhorn_bias(dev, c->bias, c->logits, c->a, c->c, c->iterations);
}

static Case new_case(Tensor logits, int64_t parts, int64_t iterations) {
    int64_t N = logits.shape[0], E = logits.shape[1];
    return (Case){.bias = new_2d(F32, parts, E),
                  .logits = logits,
                  .a = new_2d(F32, N, E),
                  .c = new_1d(F64, N),
                  .iterations = iterations};
}

static double largest_of(const float *z, int64_t E) {
    double largest = -INFINITY;
    for (int64_t e = 0; e < E; e++) largest = fmax(largest, (double)z[e]);
    return largest;
}

// d by the formula; share[e] = Σ_n c_n a_ne d_e, with a c of its own after the last d.
static void reference(double *bias, double *share, const float *z, int64_t rows, int64_t E,
                      int64_t iterations) {
    double *d = new_doubles(E), *column = new_doubles(E);
    for (int64_t e = 0; e < E; e++) d[e] = 1;
    for (int64_t i = 0; i <= iterations; i++) {
        for (int64_t e = 0; e < E; e++) column[e] = 0;
        for (int64_t n = 0; n < rows; n++, z += E) {
            double sum = 0, largest = largest_of(z, E);
            for (int64_t e = 0; e < E; e++) sum += d[e] * exp((double)z[e] - largest);
            for (int64_t e = 0; e < E; e++)
                column[e] += exp((double)z[e] - largest) / ((double)rows * sum);
        }
        z -= rows * E;
        for (int64_t e = 0; e < E && i < iterations; e++)
            d[e] = 1 / ((double)E * (column[e] + SINKHORN_LEAST));
    }
    for (int64_t e = 0; e < E; e++) bias[e] = log(d[e]), share[e] = column[e] * d[e];
}

// An `unloved` expert is one that f32 knows no chance of, beside logits that have no exponential.
static void check(int64_t N, int64_t E, int64_t parts, int64_t iterations, float size,
                  bool unloved) {
    Tensor logits = random_2d(N, E);
    int64_t rows = N / parts;
    double *bias = new_doubles(parts * E), *share = new_doubles(parts * E);
    for (int64_t i = 0; i < N * E; i++) // the first expert is liked by all
        tensor_f32(logits)[i] = size * (tensor_f32(logits)[i] + (i % E == 0 ? 1 : 0));
    for (int64_t i = 0; i < N * E && unloved; i++)
        tensor_f32(logits)[i] += i % E == E - 1 ? -300.0f : 200.0f;
    for (int64_t p = 0; p < parts; p++)
        reference(bias + p * E, share + p * E, tensor_f32(logits) + p * rows * E, rows, E,
                  iterations);
    for (int d = 0; d < device_count(); d++) {
        Device *dev = device_at(d);
        begin_case("sinkhorn on %s N=%lld E=%lld parts=%lld, %lld iterations%s", dev->name,
                   (long long)N, (long long)E, (long long)parts, (long long)iterations,
                   unloved ? ", an unloved expert" : "");
        Case c = new_case(logits, parts, iterations);
        run_on(dev, run, &c, TENSORS(&c.bias, &c.logits, &c.a, &c.c));
        // Exponentials within 2^-22, in every iteration; logarithms of size 10.
        expect_near("bias", c.bias, bias, F32_EPS, NULL,
                    (double)(4 + 2 * iterations) * 2 * F32_EPS);
        for (int64_t e = 0; e < parts * E && iterations >= 100; e++)
            expect(fabs(share[e] * (double)E - 1) < 0.01, "expert %lld has %.3f of the load",
                   (long long)e, share[e] * (double)E);
        for (int64_t p = 0; p < parts; p++) {
            Case one = new_case(tensor_rows(logits, p * rows, rows), 1, iterations);
            run_on(dev, run, &one, TENSORS(&one.bias, &one.logits, &one.a, &one.c));
            expect_same_bytes("bias of a part alone", one.bias, tensor_f32(c.bias) + p * E);
        }
    }
    Case c = new_case(logits, parts, iterations);
    expect_same_for_any_threads(run, &c, (Tensor[]){c.bias}, 1);
    release_all();
}

int main(int argc, char **argv) {
    if (wants_bench(argc, argv)) {
        Case c = new_case(random_2d(4096, 64), 8, 8);
        Device dev = open_cpu(1);
        printf("sinkhorn of 4096 tokens, 64 experts, 8 parts, 8 iterations: %.1f us\n",
               1e6 * time_call(run, &dev, &c));
        return 0;
    }
    check(4, 1, 2, 1, 1, false);
    check(32, 8, 4, 1, 2, false);
    check(36, 7, 2, 8, 3, false);
    check(100, 33, 1, 8, 3, false);
    check(40, 300, 2, 3, 2, false);
    check(256, 8, 2, 100, 2, false);
    check(24, 5, 2, 4, 1, true);
    check(24, 70, 1, 1, 1, true);
    return failures();
}
