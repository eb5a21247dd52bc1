// Dropout on every device, element by element against the words of rng.h: in every storage, in
// place, with rows that are counted and with rows that have numbers.
#include "harness.h"
#include "reference.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct Case {
    Tensor out, x, in_place;
    Dropout rule;
} Case;

static void run_ops(Device *dev, void *context) {
    Case *c = context;
    dropout(dev, c->out, c->x, c->rule);
    if (!c->in_place.data) return;
    copy(dev, c->in_place, c->x);
    dropout(dev, c->in_place, c->in_place, c->rule);
}
static void run_case(Device *dev, Case *c) {
    run_on(dev, run_ops, c, TENSORS(&c->out, &c->x, &c->in_place, &c->rule.rows));
}

static Case new_case(int64_t N, int64_t D, DType from, DType to, double rate, bool numbered,
                     Tensor *x_f32) {
    *x_f32 = random_2d(N, D);
    Case c = {.x = stored_as(from, *x_f32),
              .out = new_2d(to, N, D),
              .rule = {.rate = rate,
                       .stream = {0x123456789abcdef0u, RNG_DROPOUT_RESIDUAL, 7, 3},
                       .first_row = ((int64_t)1 << 32) / D - N / 2}}; // words of a second high word
    if (from == to) c.in_place = new_2d(to, N, D);
    if (numbered) {
        c.rule.rows = new_1d(I64, N);
        for (int64_t n = 0; n < N; n++)
            tensor_i64(c.rule.rows)[n] = ((int64_t)random_below(1 << 20) << 14) + n;
    }
    return c;
}

static void check_on(Device *dev, int64_t N, int64_t D, DType from, DType to, double rate,
                     bool numbered) {
    begin_case("%s dropout %g of %s into %s N=%lld D=%lld%s", dev->name, rate, dtype_name(from),
               dtype_name(to), (long long)N, (long long)D, numbered ? ", numbered rows" : "");
    Tensor x;
    Case c = new_case(N, D, from, to, rate, numbered, &x);
    run_case(dev, &c);
    double *want = new_doubles(N * D);
    reference_dropout(want, tensor_f32(x), c.rule, N, D);
    // The factor is rounded, then the product, then what is stored. A dropped element is 0 exactly.
    expect_near("out", c.out, want, 2 * F32_EPS + storage_eps(to), NULL, 0);
    if (c.in_place.data) expect_same_bytes("in place", c.in_place, c.out.data);
    if (dev->place == ON_HOST) expect_same_for_any_threads(run_ops, &c, &c.out, 1);
    release_all();
}

static void check_shapes(void) {
    static const int64_t shapes[][2] = {{0, 8}, {1, 1}, {5, 3}, {7, 64}, {33, 130}, {3, 2050}};
    static const double rates[] = {0, 0.1, 0.5, 0.99};
    static const DType storages[] = {F32, BF16};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int i = 0; i < 4; i++)
            for (size_t r = 0; r < sizeof rates / sizeof *rates; r++)
                for (int d = 0; d < device_count(); d++)
                    check_on(device_at(d), shapes[s][0], shapes[s][1], storages[i / 2],
                             storages[i % 2], rates[r], (s + r) % 2);
}

// The share that is dropped, within five standard deviations, of all elements and of each column:
// a word that served two elements would show as columns that are dropped together.
static void check_shares(void) {
    enum { N = 4000, D = 12 };
    begin_case("the share that is dropped");
    Tensor x;
    Case c = new_case(N, D, F32, F32, 0.3, false, &x);
    run_case(device_at(0), &c);
    const float *out = tensor_f32(c.out);
    for (int a = 0; a < D; a++)
        for (int b = 0; b <= a; b++) {
            int both = 0;
            for (int n = 0; n < N; n++) both += out[n * D + a] == 0 && out[n * D + b] == 0;
            double p = a == b ? 0.3 : 0.09;
            expect(fabs(both - N * p) < 5 * sqrt(N * p * (1 - p)), "columns %d and %d: %d of %d", a,
                   b, both, N);
        }
    release_all();
}

// What is not a number must stay seen, dropped or not.
static void check_nan(Device *dev) {
    begin_case("%s NaN", dev->name);
    Tensor x;
    Case c = new_case(1, 64, F32, F32, 0.5, false, &x);
    for (int i = 0; i < 64; i++) tensor_f32(c.x)[i] = NAN;
    run_case(dev, &c);
    for (int i = 0; i < 64; i++) expect(isnan(tensor_f32(c.out)[i]), "element %d", i);
    release_all();
}

static void bench(int64_t N, int64_t D, DType T) {
    for (int threads = 1; threads <= 2; threads++) {
        Device dev = open_cpu(threads);
        Tensor x;
        Case c = new_case(N, D, T, T, 0.1, false, &x);
        c.in_place = (Tensor){0};
        double seconds = time_call(run_ops, &dev, &c);
        printf("dropout %s %lld x %lld, %d threads: %.1f GB/s\n", dtype_name(T), (long long)N,
               (long long)D, threads, 2e-9 * (double)((int64_t)dtype_bytes(T) * N * D) / seconds);
        release_all();
    }
}

int main(int argc, char **argv) {
    if (wants_bench(argc, argv)) {
        bench(4096, 384, F32);
        bench(4096, 384, BF16);
        return 0;
    }
    check_shapes();
    check_shares();
    for (int i = 0; i < device_count(); i++) check_nan(device_at(i));
    return failures();
}
