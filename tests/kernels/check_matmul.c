// The three matrix products against the reference, and what training relies on: a segment's bits depend
// neither on its neighbours and its place in memory nor on the number of threads.
#include "harness.h"
#include "reference.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct Case {
    Tensor x, w, y, dy, dx, dw;
    Segments rows;
} Case;

enum { MOST_SEGMENTS = 4096 };

// `offsets` has groups * parts + 1 entries; the tensors have three rows more than the last offset.
static Case new_case(const int64_t *offsets, int64_t groups, int64_t parts, int64_t N, int64_t K) {
    int64_t M = offsets[groups * parts] + 3;
    return (Case){random_2d(M, K),         random_3d(groups, N, K), new_2d(F32, M, N),
                  random_2d(M, N),         new_2d(F32, M, K),       new_3d(F32, groups, N, K),
                  {groups, parts, offsets}};
}

static void run_forward(Device *dev, void *context) {
    Case *c = context;
    matmul_forward(dev, c->y, c->x, c->w, c->rows);
}
static void run_backward_input(Device *dev, void *context) {
    Case *c = context;
    matmul_backward_input(dev, c->dx, c->dy, c->w, c->rows);
}
static void run_backward_weight(Device *dev, void *context) {
    Case *c = context;
    matmul_backward_weight(dev, c->dw, c->dy, c->x, c->rows);
}
static void run_all(Device *dev, void *context) {
    run_forward(dev, context);
    run_backward_input(dev, context);
    run_backward_weight(dev, context);
}

// The error of a sum of n products in any order is below n eps Σ|a b|; a random walk of roundings gives
// √n, and four times that is never reached by chance.
static double tolerance(int64_t n) {
    return F32_EPS * (2.0 + 4.0 * sqrt((double)n));
}

static void check(Case c) {
    int64_t N = c.y.shape[1], K = c.x.shape[1], first = c.rows.offsets[0];
    int64_t end = c.rows.offsets[c.rows.groups * c.rows.parts], count = end - first;
    double *want = new_doubles(tensor_elements(c.x) + tensor_elements(c.y));
    double *unit = new_doubles(tensor_elements(c.x) + tensor_elements(c.y));
    Device dev = open_cpu(0);
    run_all(&dev, &c);
    reference_matmul_forward(want, unit, tensor_f32(c.x), tensor_f32(c.w), c.rows, N, K);
    expect_near("y", tensor_rows(c.y, first, count), want + first * N, 0, unit + first * N,
                tolerance(K));
    reference_matmul_backward_input(want, unit, tensor_f32(c.dy), tensor_f32(c.w), c.rows, N, K);
    expect_near("dx", tensor_rows(c.dx, first, count), want + first * K, 0, unit + first * K,
                tolerance(N));
    double *dw = new_doubles(tensor_elements(c.dw)), *dw_unit = new_doubles(tensor_elements(c.dw));
    reference_matmul_backward_weight(dw, dw_unit, tensor_f32(c.dy), tensor_f32(c.x), c.rows, N, K);
    expect_near("dw", c.dw, dw, 0, dw_unit, tolerance(count));
    expect(isnan(tensor_f32(c.y)[end * N]) && isnan(tensor_f32(c.dx)[end * K]),
           "rows past the last segment were written");
    expect_same_for_any_threads(run_all, &c, (Tensor[]){c.y, c.dx, c.dw}, 3);
}

// The same rows as the only segment, at an address that is off by one float.
static void check_alone(Case c, int64_t group, int64_t part) {
    int64_t N = c.y.shape[1], K = c.x.shape[1], i = group * c.rows.parts + part;
    int64_t first = c.rows.offsets[i], count = c.rows.offsets[i + 1] - first;
    Case alone = new_case((const int64_t[]){0, count}, 1, 1, N, K);
    const float *sources[] = {tensor_f32(c.x) + first * K, tensor_f32(c.dy) + first * N,
                              tensor_f32(c.w) + group * N * K};
    Tensor *targets[] = {&alone.x, &alone.dy, &alone.w};
    int64_t floats[] = {count * K, count * N, N * K};
    for (int t = 0; t < 3; t++) {
        float *moved = tensor_f32(new_1d(F32, tensor_elements(*targets[t]) + 1)) + 1;
        memcpy(moved, sources[t], (size_t)floats[t] * sizeof *moved);
        targets[t]->data = moved;
    }
    Device dev = open_cpu(0);
    run_all(&dev, &c);
    run_all(&dev, &alone);
    expect_same_bytes("y of a lone segment", tensor_rows(alone.y, 0, count),
                      tensor_f32(c.y) + first * N);
    expect_same_bytes("dx of a lone segment", tensor_rows(alone.dx, 0, count),
                      tensor_f32(c.dx) + first * K);
    if (c.rows.parts == 1)
        expect_same_bytes("dw of a lone segment", alone.dw, tensor_f32(c.dw) + group * N * K);
}

// dw of four parts must be ((0+1)+(2+3)) of the parts' own gradients, bit by bit.
static void check_tree(Case c) {
    int64_t count = c.dw.shape[1] * c.dw.shape[2];
    Device dev = open_cpu(0);
    run_backward_weight(&dev, &c);
    for (int64_t g = 0; g < c.rows.groups; g++) {
        Tensor part[4];
        for (int p = 0; p < 4; p++) {
            part[p] = new_3d(F32, 1, c.dw.shape[1], c.dw.shape[2]);
            Segments one = {1, 1, c.rows.offsets + g * 4 + p};
            matmul_backward_weight(&dev, part[p], c.dy, c.x, one);
        }
        add(&dev, part[0], part[0], part[1]);
        add(&dev, part[2], part[2], part[3]);
        add(&dev, part[0], part[0], part[2]);
        expect_same_bytes("dw as a tree of its parts", part[0], tensor_f32(c.dw) + g * count);
    }
}

static void check_shapes(void) {
    static const int64_t widths[][2] = {{1, 1},   {3, 5},     {16, 16},   {65, 128}, {128, 65},
                                        {33, 70}, {384, 128}, {130, 300}, {7, 513}};
    static const struct {
        int64_t groups, parts, offsets[17];
    } segments[] = {
        {1, 1, {0, 1}},                            // a single row
        {1, 1, {0, 0}},                            // no rows at all
        {1, 1, {0, 300}},                          // more than one tile
        {1, 4, {0, 32, 64, 96, 128}},              // a dense layer on four shards
        {4, 1, {0, 17, 17, 18, 81}},               // a starved expert
        {3, 2, {0, 5, 5, 5, 9, 30, 70}},           // starved parts
        {2, 4, {2, 9, 9, 20, 22, 22, 22, 22, 90}}, // rows that start late
    };
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++)
        for (size_t j = 0; j < sizeof segments / sizeof *segments; j++) {
            Case c = new_case(segments[j].offsets, segments[j].groups, segments[j].parts,
                              widths[i][0], widths[i][1]);
            begin_case("matmul N=%lld K=%lld segments %zu", (long long)widths[i][0],
                       (long long)widths[i][1], j);
            check(c);
            check_alone(c, c.rows.groups - 1, c.rows.parts - 1);
            if (c.rows.parts == 4) check_tree(c);
            release_all();
        }
}

// A segment's result must not depend on the address modulo a cache line, at sizes where libraries block K.
static void check_addresses(void) {
    static const int64_t shapes[][3] = {{16, 128, 512},  {64, 512, 128},   {256, 128, 512},
                                        {64, 1408, 512}, {300, 512, 1408}, {40, 65, 2048}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        int64_t M = shapes[i][0];
        Case c = new_case((const int64_t[]){5, 5 + M}, 1, 1, shapes[i][1], shapes[i][2]);
        begin_case("addresses M=%lld N=%lld K=%lld", (long long)M, (long long)shapes[i][1],
                   (long long)shapes[i][2]);
        check_alone(c, 0, 0);
        release_all();
    }
}

static void check_many_experts(void) {
    static int64_t offsets[513];
    for (int i = 0; i < 512; i++) offsets[i + 1] = offsets[i] + random_below(9);
    begin_case("512 experts");
    check(new_case(offsets, 512, 1, 24, 40));
    release_all();
}

static void bench(int64_t groups, int64_t rows_each, int64_t N, int64_t K) {
    static int64_t offsets[MOST_SEGMENTS + 1];
    for (int64_t i = 0; i < groups; i++) offsets[i + 1] = offsets[i] + rows_each;
    Case c = new_case(offsets, groups, 1, N, K);
    void (*const runs[])(Device *, void *) = {run_forward, run_backward_input, run_backward_weight};
    double flops = 2.0 * (double)(groups * rows_each * N * K);
    printf("%4lld x %5lld rows, N %5lld, K %5lld:", (long long)groups, (long long)rows_each,
           (long long)N, (long long)K);
    for (int threads = 1; threads <= 2; threads++) {
        Device dev = open_cpu(threads);
        for (int i = 0; i < 3; i++) printf(" %6.1f", 1e-9 * flops / time_call(runs[i], &dev, &c));
        printf(threads == 1 ? " |" : "\n");
    }
    release_all();
}

int main(int argc, char **argv) {
    if (wants_bench(argc, argv)) {
        puts("GFLOP/s: forward, backward input, backward weight; 1 thread | 2 threads");
        bench(1, 512, 384, 128);
        bench(1, 512, 65, 128);
        bench(8, 128, 512, 128);
        bench(8, 128, 128, 512);
        bench(1, 2048, 1536, 512);
        bench(8, 512, 2816, 512);
        bench(8, 512, 512, 1408);
        bench(8, 1024, 512, 256);
        bench(512, 16, 512, 256);
        bench(512, 16, 256, 512);
        return 0;
    }
    check_shapes();
    check_addresses();
    check_many_experts();
    return failures();
}
