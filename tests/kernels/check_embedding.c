// Token embedding: rows exactly, the gradient against the reference and as the tree of its parts.
#include "harness.h"
#include "reference.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct Case {
    Tensor tokens, weight, out, dout, dweight, order;
    int64_t parts;
} Case;

static Case new_case(int64_t N, int64_t D, int64_t V, int64_t parts) {
    Case c = {new_1d(I32, N),
              random_2d(V, D),
              new_2d(F32, N, D),
              random_2d(N, D),
              new_2d(F32, V, D),
              new_1d(I32, N + V + 1),
              parts};
    for (int64_t n = 0; n < N; n++) tensor_i32(c.tokens)[n] = (int32_t)random_below(V);
    return c;
}

static void run_forward(Device *dev, void *context) {
    Case *c = context;
    embedding_forward(dev, c->out, c->tokens, c->weight);
}
static void run_backward(Device *dev, void *context) {
    Case *c = context;
    embedding_backward(dev, c->dweight, c->dout, c->tokens, c->parts, c->order);
}

static void check(int64_t N, int64_t D, int64_t V, int64_t parts) {
    begin_case("embedding N=%lld D=%lld V=%lld parts=%lld", (long long)N, (long long)D,
               (long long)V, (long long)parts);
    Case c = new_case(N, D, V, parts);
    Device dev = open_cpu(0);
    run_forward(&dev, &c);
    run_backward(&dev, &c);
    for (int64_t n = 0; n < N; n++)
        expect(memcmp(tensor_rows(c.out, n, 1).data,
                      tensor_rows(c.weight, tensor_i32(c.tokens)[n], 1).data,
                      (size_t)D * sizeof(float)) == 0,
               "row %lld", (long long)n);
    double *want = new_doubles(V * D), *unit = new_doubles(V * D);
    reference_embedding_backward(want, unit, tensor_f32(c.dout), tensor_i32(c.tokens), N, D, V);
    // A sum of at most N numbers, in order: √N roundings of the magnitude.
    expect_near("dweight", c.dweight, want, 0, unit, F32_EPS * (2 + 2 * sqrt((double)N)));
    expect_same_for_any_threads(run_backward, &c, &c.dweight, 1);

    Tensor part[8]; // the gradient of each part alone, summed by hand: ((0+1)+(2+3))+…
    for (int64_t p = 0, rows = N / parts; p < parts; p++) {
        part[p] = new_2d(F32, V, D);
        embedding_backward(&dev, part[p], tensor_rows(c.dout, p * rows, rows),
                           tensor_rows(c.tokens, p * rows, rows), 1, new_1d(I32, rows + V + 1));
    }
    for (int64_t apart = 1; apart < parts; apart *= 2)
        for (int64_t p = 0; p < parts; p += 2 * apart) add(&dev, part[p], part[p], part[p + apart]);
    expect_same_bytes("dweight as a tree of its parts", c.dweight, part[0].data);
    release_all();
}

static void bench(int64_t N, int64_t D, int64_t V) {
    for (int threads = 1; threads <= 2; threads++) {
        Device dev = open_cpu(threads);
        Case c = new_case(N, D, V, 1);
        double f = time_call(run_forward, &dev, &c), b = time_call(run_backward, &dev, &c);
        printf("embedding %lld x %lld of %lld, %d threads: forward %.1f us, backward %.1f us\n",
               (long long)N, (long long)D, (long long)V, threads, 1e6 * f, 1e6 * b);
        release_all();
    }
}

int main(int argc, char **argv) {
    if (wants_bench(argc, argv)) {
        bench(512, 128, 65);
        bench(2048, 512, 8192);
        return 0;
    }
    check(0, 8, 5, 1);
    check(1, 1, 1, 1);
    check(24, 7, 5, 4);
    check(64, 33, 65, 8);
    check(300, 128, 3, 2);
    check(16, 16, 1000, 1);
    return failures();
}
