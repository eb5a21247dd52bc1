// Token embedding on every device: rows exactly, the gradient against the reference and as the tree
// of its parts.
#include "harness.h"
#include "reference.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
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
    if (N > 1) tensor_i32(c.tokens)[1] = (int32_t)(V - 1); // needs every digit of a sort
    return c;
}

static void forward(Device *dev, void *context) {
    Case *c = context;
    embedding_forward(dev, c->out, c->tokens, c->weight);
}
static void backward(Device *dev, void *context) {
    Case *c = context;
    embedding_backward(dev, c->dweight, c->dout, c->tokens, c->parts, c->order);
}
static void run_forward(Device *dev, void *context) {
    Case *c = context;
    run_on(dev, forward, c, TENSORS(&c->tokens, &c->weight, &c->out));
}
static void run_backward(Device *dev, void *context) {
    Case *c = context;
    run_on(dev, backward, c, TENSORS(&c->tokens, &c->dout, &c->dweight, &c->order));
}

static void check_on(Device *dev, Case c) {
    int64_t N = c.tokens.shape[0], V = c.weight.shape[0], D = c.weight.shape[1];
    begin_case("%s embedding N=%lld D=%lld V=%lld parts=%lld", dev->name, (long long)N,
               (long long)D, (long long)V, (long long)c.parts);
    run_forward(dev, &c);
    run_backward(dev, &c);
    for (int64_t n = 0; n < N; n++)
        expect(memcmp(tensor_rows(c.out, n, 1).data,
                      tensor_rows(c.weight, tensor_i32(c.tokens)[n], 1).data,
                      (size_t)D * sizeof(float)) == 0,
               "row %lld", (long long)n);
    double *want = new_doubles(V * D), *unit = new_doubles(V * D);
    reference_embedding_backward(want, unit, tensor_f32(c.dout), tensor_i32(c.tokens), N, D, V);
    // A sum of at most N numbers, in order: √N roundings of the magnitude.
    expect_near("dweight", c.dweight, want, 0, unit, F32_EPS * (2 + 2 * sqrt((double)N)));
    if (dev->place == ON_HOST) {
        expect_same_for_any_threads(run_backward, &c, &c.dweight, 1);
    } else { // the emulated GPU in another order of blocks, warps and lanes
        Tensor first = copy_of(c.dweight);
        begin_other_schedule();
        run_backward(dev, &c);
        end_other_schedule();
        expect_same_bytes("dweight in another order", c.dweight, first.data);
    }
}

// The gradient of each part alone, in the order of the text, and the tree over them:
// ((0+1)+(2+3))+… The order is fixed to the last addition, hence the same bytes on every device.
static void check_tree(Device *dev, Case c) {
    enum { MOST = 16 };
    int64_t V = c.weight.shape[0], D = c.weight.shape[1], rows = c.tokens.shape[0] / c.parts;
    float *part[MOST];
    for (int64_t p = 0; p < c.parts; p++) {
        Case one = {.tokens = tensor_rows(c.tokens, p * rows, rows),
                    .dout = tensor_rows(c.dout, p * rows, rows),
                    .dweight = new_2d(F32, V, D),
                    .order = new_1d(I32, rows + V + 1),
                    .parts = 1};
        run_backward(dev, &one);
        part[p] = tensor_f32(one.dweight);
        Tensor want = new_2d(F32, V, D);
        memset(want.data, 0, tensor_bytes(want));
        for (int64_t n = 0; n < rows; n++)
            for (int64_t d = 0; d < D; d++)
                tensor_f32(want)[tensor_i32(one.tokens)[n] * D + d] +=
                    tensor_f32(one.dout)[n * D + d];
        expect_same_bytes("dweight of a part, token by token", one.dweight, want.data);
    }
    for (int64_t apart = 1; apart < c.parts; apart *= 2)
        for (int64_t p = 0; p < c.parts; p += 2 * apart)
            for (int64_t i = 0; i < V * D; i++) part[p][i] += part[p + apart][i];
    expect_same_bytes("dweight as a tree of its parts", c.dweight, part[0]);
}

static void check(int64_t N, int64_t D, int64_t V, int64_t parts) {
    for (int i = 0; i < device_count(); i++) {
        Case c = new_case(N, D, V, parts);
        check_on(device_at(i), c);
        check_tree(device_at(i), c);
        release_all();
    }
}

// Texts that only some parts share: token v stands in the parts whose bits are set in v, so that
// every shape of tree with parts missing occurs.
static void check_missing_parts(Device *dev) {
    enum { PARTS = 8, ROWS = 1 << PARTS };
    Case c = new_case(PARTS * ROWS, 5, ROWS + 1, PARTS);
    for (int64_t p = 0; p < PARTS; p++)
        for (int64_t v = 0; v < ROWS; v++)
            tensor_i32(c.tokens)[p * ROWS + v] = (int32_t)(v >> p & 1 ? v : ROWS);
    check_on(dev, c);
    check_tree(dev, c);
    release_all();
}

static void bench(int64_t N, int64_t D, int64_t V) {
    for (int threads = 1; threads <= 2; threads++) {
        Device dev = open_cpu(threads);
        Case c = new_case(N, D, V, 1);
        double f = time_call(forward, &dev, &c), b = time_call(backward, &dev, &c);
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
    check(16, 16, 1000, 1);  // two digits of the GPU's sort
    check(80, 300, 17, 16);  // columns beyond a warp
    check(4500, 4, 700, 4);  // keys beyond two blocks of the sort
    check(40, 3, 262200, 1); // three digits
    for (int i = 0; i < device_count(); i++) check_missing_parts(device_at(i));
    return failures();
}
