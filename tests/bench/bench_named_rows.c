// Is it cheaper to gather the rows that tokens name, or to multiply by a whole table and keep what
// was named? A PEER layer's ops against the dense products alone, without what a mask would cost,
// at shares of the table from few rows to all.
//
//     build/release/tests/bench/bench_named_rows [threads]
//
// Both run in turn and each keeps its best time. Rows are named at random, which is the hardest for
// caches.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/clock.h"
#include "kernels/kernels.h"
#include "kernels/peer_ops.h"

enum { TOKENS = 512, WIDTH = 256, PARTS = 8 };

typedef struct Problem {
    int64_t E, K;                  // rows of the table, and those that a token names
    Tensor table, x, out, dtable;  // (E, D), (M, D), (M, D), (E, D)
    Tensor ids, at, listed, slots; // (M, K) i32, (M·K) i32, (E + 1) i32, (M, K)
    Tensor all;                    // (M, E)
} Problem;

static NamedRows rows_of(const Problem *p) {
    return (NamedRows){p->table, 0, p->slots, 0};
}
static Tensor matrix_of(Tensor table) {
    return tensor_3d(table.data, F32, 1, table.shape[0], table.shape[1]);
}
static Segments all_tokens(void) {
    static const int64_t offsets[] = {0, TOKENS};
    return (Segments){.groups = 1, .parts = 1, .offsets = offsets};
}

static void gather_products(Device *dev, Problem *p) {
    named_products(dev, rows_of(p), p->x, p->ids);
}
static void dense_products(Device *dev, Problem *p) {
    matmul_forward(dev, p->all, p->x, matrix_of(p->table), all_tokens());
}
static void gather_sums(Device *dev, Problem *p) {
    const NamedRows rows = rows_of(p);
    named_sums(dev, p->out, (NamedTables){&rows, 1}, p->ids, PARTS);
}
static void dense_sums(Device *dev, Problem *p) {
    matmul_backward_input(dev, p->out, p->all, matrix_of(p->table), all_tokens());
}
static void gather_gradient(Device *dev, Problem *p) {
    list_names(dev, p->at, p->listed, p->ids, 0);
    named_gradient(dev, p->dtable, (Tensor){0}, rows_of(p), p->x, p->at, p->listed, p->K, PARTS);
}
static void dense_gradient(Device *dev, Problem *p) {
    matmul_backward_weight(dev, matrix_of(p->dtable), p->all, p->x, all_tokens());
}

static const struct Op {
    const char *name;
    void (*gather)(Device *, Problem *), (*dense)(Device *, Problem *);
} ops[] = {{"products", gather_products, dense_products},
           {"sums", gather_sums, dense_sums},
           {"gradient", gather_gradient, dense_gradient}};
enum { OPS = sizeof ops / sizeof *ops, ROUNDS = 40 };

static Tensor new_tensor(DType type, int64_t rows, int64_t columns) {
    Tensor t = tensor_2d(NULL, type, rows, columns);
    t.data = aligned_alloc(64, (tensor_bytes(t) + 63) / 64 * 64);
    CHECK(t.data, "no memory");
    for (int64_t i = 0; i < tensor_elements(t); i++)
        if (type == F32) tensor_f32(t)[i] = (float)(i % 7) - 3.0f;
    return t;
}

static double best_of(double best, void (*run)(Device *, Problem *), Device *dev, Problem *p) {
    double start = clock_seconds();
    run(dev, p);
    return fmin(best, clock_seconds() - start);
}

static void measure(Device *dev, int64_t E, int64_t K) {
    Problem p = {.E = E,
                 .K = K,
                 .table = new_tensor(F32, E, WIDTH),
                 .x = new_tensor(F32, TOKENS, WIDTH),
                 .out = new_tensor(F32, TOKENS, WIDTH),
                 .dtable = new_tensor(F32, E, WIDTH),
                 .ids = new_tensor(I32, TOKENS, K),
                 .at = new_tensor(I32, 1, TOKENS * K),
                 .listed = new_tensor(I32, 1, E + 1),
                 .slots = new_tensor(F32, TOKENS, K),
                 .all = new_tensor(F32, TOKENS, E)};
    p.at = tensor_reshape_1d(p.at, TOKENS * K);
    p.listed = tensor_reshape_1d(p.listed, E + 1);
    for (int64_t i = 0; i < TOKENS * K; i++) tensor_i32(p.ids)[i] = (int32_t)(rand() % E);
    printf("%6lld %5lld %6.3f", (long long)E, (long long)K, (double)K / (double)E);
    double gather = 0, dense = 0;
    for (int o = 0; o < OPS; o++) {
        double gathered = INFINITY, multiplied = INFINITY;
        for (int round = 0; round < ROUNDS; round++) {
            gathered = best_of(gathered, ops[o].gather, dev, &p);
            multiplied = best_of(multiplied, ops[o].dense, dev, &p);
        }
        printf("  %7.2f %7.2f", 1e3 * gathered, 1e3 * multiplied);
        gather += gathered, dense += multiplied;
    }
    printf("  %6.2f\n", gather / dense);
    Tensor *all[] = {&p.table, &p.x, &p.out, &p.dtable, &p.ids, &p.at, &p.listed, &p.slots, &p.all};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]->data);
}

int main(int argc, char **argv) {
    static const int64_t sizes[][2] = {{1296, 240}, {1296, 480}, {1024, 128},
                                       {256, 128},  {256, 256},  {65536, 128}};
    Device dev;
    Error err = {0};
    CHECK(device_open(&dev, "cpu", argc > 1 ? atoi(argv[1]) : 1, 0, 1, &err), "%s", err.message);
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("%d tokens of %d numbers, ms: gathered, and the dense product alone\n", TOKENS, WIDTH);
    printf("  rows named  share");
    for (int o = 0; o < OPS; o++) printf("  %15s", ops[o].name);
    printf("   ratio\n");
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        measure(&dev, sizes[i][0], sizes[i][1]);
    return 0;
}
