// The three matrix products against the reference on every device, and what training relies on: a
// segment's bits depend neither on its neighbours and its place in memory nor on the number of
// threads; on a GPU with fixed_order a row's bits do not depend on any other row.
#include "harness.h"
#include "reference.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// What is stored: operands and results.
typedef struct Storage {
    DType type, result;
} Storage;
static const Storage storages[] = {{F32, F32}, {BF16, BF16}, {BF16, F32}};
static int first_storage; // `narrow`: 1, what a Hopper has kernels of its own for
enum { STORAGES = 3 };

typedef struct Case {
    Tensor x, w, y, dy, dx, dw;
    Tensor wide_x, wide_w, wide_dy; // the same numbers in f32
    Segments rows;
} Case;

enum { MOST_SEGMENTS = 4096 };

// `offsets` has groups * parts + 1 entries; the tensors have three rows more than the last offset.
// Experts: the offsets are also where kernels can read them.
static Case new_case(const int64_t *offsets, int64_t groups, int64_t parts, int64_t N, int64_t K,
                     Storage s, bool experts) {
    int64_t segments = groups * parts, M = offsets[segments] + 3;
    Case c = {.wide_x = random_2d(M, K), .wide_w = random_3d(groups, N, K)};
    c.wide_dy = random_2d(M, N);
    c.x = stored_as(s.type, c.wide_x);
    c.w = stored_as(s.type, c.wide_w);
    c.dy = stored_as(s.type, c.wide_dy);
    c.y = new_2d(s.result, M, N);
    c.dx = new_2d(s.result, M, K);
    c.dw = new_3d(F32, groups, N, K);
    c.rows = (Segments){groups, parts, offsets, {0}};
    if (experts)
        c.rows.device_offsets =
            tensor_1d(memcpy(new_1d(I64, segments + 1).data, offsets, (size_t)(segments + 1) * 8),
                      I64, segments + 1);
    return c;
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
static void run_both_rows(Device *dev, void *context) {
    run_forward(dev, context);
    run_backward_input(dev, context);
}
static void run_rows(Device *dev, Case *c) {
    run_on(dev, run_both_rows, c,
           TENSORS(&c->x, &c->w, &c->y, &c->dy, &c->dx, &c->rows.device_offsets));
}
static void run_case(Device *dev, Case *c) {
    run_on(dev, run_all, c,
           TENSORS(&c->x, &c->w, &c->y, &c->dy, &c->dx, &c->dw, &c->rows.device_offsets));
}

// The error of a sum of n products in any order is below n eps Σ|a b|; a random walk of roundings
// gives √n, and four times that is never reached by chance. Products of bf16 are exact in f32;
// tensor cores may cut instead of round, twice the error of a rounding, but they do it once for 8
// or 16 products. A bf16 result is rounded once more.
static double tolerance(int64_t n) {
    return F32_EPS * (2.0 + 4.0 * sqrt((double)n));
}

static bool untouched(Tensor x) {
    const unsigned char *bytes = x.data;
    for (size_t i = 0; i < tensor_bytes(x); i++)
        if (bytes[i] != 0xFF) return false;
    return true;
}

static void compare(const char *name, Tensor got, int64_t first, int64_t count, const double *want,
                    const double *unit, int64_t summed) {
    int64_t at = first * got.shape[1];
    expect_near(name, tensor_rows(got, first, count), want + at, storage_eps(got.dtype), unit + at,
                tolerance(summed));
}

// The case on the device, against the reference. Its results stay in the case.
static void check_values(Device *dev, Case *keep) {
    Case c = *keep;
    int64_t N = c.y.shape[1], K = c.x.shape[1], first = c.rows.offsets[0], M = c.x.shape[0];
    int64_t end = c.rows.offsets[c.rows.groups * c.rows.parts], count = end - first;
    double *want = new_doubles(tensor_elements(c.x) + tensor_elements(c.y));
    double *unit = new_doubles(tensor_elements(c.x) + tensor_elements(c.y));
    c.y = new_2d(c.y.dtype, M, N), c.dx = new_2d(c.dx.dtype, M, K);
    c.dw = new_3d(F32, c.rows.groups, N, K);
    run_case(dev, &c);
    const float *x = tensor_f32(c.wide_x), *w = tensor_f32(c.wide_w), *dy = tensor_f32(c.wide_dy);
    reference_matmul_forward(want, unit, x, w, c.rows, N, K);
    compare("y", c.y, first, count, want, unit, K);
    reference_matmul_backward_input(want, unit, dy, w, c.rows, N, K);
    compare("dx", c.dx, first, count, want, unit, N);
    double *dw = new_doubles(tensor_elements(c.dw)), *dw_unit = new_doubles(tensor_elements(c.dw));
    reference_matmul_backward_weight(dw, dw_unit, dy, x, c.rows, N, K);
    expect_near("dw", c.dw, dw, 0, dw_unit, tolerance(count));
    expect(untouched(tensor_rows(c.y, 0, first)) && untouched(tensor_rows(c.dx, 0, first)) &&
               untouched(tensor_rows(c.y, end, 3)) && untouched(tensor_rows(c.dx, end, 3)),
           "rows before the first or past the last segment were written");
    *keep = c;
}

static void check_threads(Case c) {
    expect_same_for_any_threads(run_all, &c, (Tensor[]){c.y, c.dx, c.dw}, 3);
}

// Rows [first, first + count) of x and the like, and matrix `group`, as a case of its own, at
// addresses that are off by one element.
static Case cut(Case c, int64_t group, int64_t first, const int64_t *offsets, Storage s) {
    int64_t N = c.y.shape[1], K = c.x.shape[1], count = offsets[1];
    Case alone = new_case(offsets, 1, 1, N, K, s, c.rows.device_offsets.data);
    size_t bytes = dtype_bytes(s.type);
    const char *sources[] = {(char *)c.x.data + (size_t)(first * K) * bytes,
                             (char *)c.dy.data + (size_t)(first * N) * bytes,
                             (char *)c.w.data + (size_t)(group * N * K) * bytes};
    Tensor *targets[] = {&alone.x, &alone.dy, &alone.w};
    int64_t elements[] = {count * K, count * N, N * K};
    for (int t = 0; t < 3; t++) {
        char *moved = (char *)new_1d(s.type, tensor_elements(*targets[t]) + 1).data + bytes;
        memcpy(moved, sources[t], (size_t)elements[t] * bytes);
        targets[t]->data = moved;
    }
    return alone;
}

static const char *row_of(Tensor x, int64_t row) {
    return (char *)x.data + (size_t)(row * x.shape[1]) * dtype_bytes(x.dtype);
}

// A segment's rows as the only segment must give what the case has from the same device.
static void check_alone(Device *dev, Case c, int64_t group, int64_t part) {
    int64_t i = group * c.rows.parts + part, first = c.rows.offsets[i];
    int64_t count = c.rows.offsets[i + 1] - first, matrix = c.y.shape[1] * c.x.shape[1];
    const int64_t offsets[] = {0, count};
    Case alone = cut(c, group, first, offsets, (Storage){c.x.dtype, c.y.dtype});
    run_case(dev, &alone);
    expect_same_bytes("y of a lone segment", tensor_rows(alone.y, 0, count), row_of(c.y, first));
    expect_same_bytes("dx of a lone segment", tensor_rows(alone.dx, 0, count), row_of(c.dx, first));
    if (c.rows.parts == 1)
        expect_same_bytes("dw of a lone segment", alone.dw, tensor_f32(c.dw) + group * matrix);
}

// The case's dw of 2 or 4 parts must be (0+1) or ((0+1)+(2+3)) of the parts' own gradients, bit by
// bit.
static void check_tree(Device *dev, Case c) {
    int64_t N = c.dw.shape[1], K = c.dw.shape[2], parts = c.rows.parts;
    Device *cpu = device_at(0); // adds floats on the host
    for (int64_t g = 0; g < c.rows.groups; g++) {
        Tensor sum[4];
        for (int64_t p = 0; p < parts; p++) {
            Case one = c;
            one.dw = new_3d(F32, 1, N, K);
            one.w = tensor_rows(c.w, g, 1);
            one.rows = (Segments){1, 1, c.rows.offsets + g * parts + p, {0}};
            if (c.rows.device_offsets.data)
                one.rows.device_offsets = tensor_rows(c.rows.device_offsets, g * parts + p, 2);
            run_on(dev, run_backward_weight, &one,
                   TENSORS(&one.dw, &one.dy, &one.x, &one.rows.device_offsets));
            sum[p] = one.dw;
        }
        for (int64_t step = 1; step < parts; step *= 2)
            for (int64_t p = 0; p < parts; p += 2 * step) add(cpu, sum[p], sum[p], sum[p + step]);
        expect_same_bytes("dw as a tree of its parts", sum[0], tensor_f32(c.dw) + g * N * K);
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
        {1, 2, {3, 3, 40}},                        // one of them empty
        {4, 1, {0, 17, 17, 18, 81}},               // a starved expert
        {3, 2, {0, 5, 5, 5, 9, 30, 70}},           // starved parts
        {2, 4, {2, 9, 9, 20, 22, 22, 22, 22, 90}}, // rows that start late
        {1, 1, {4, 40}},                           // one expert
    };
    const size_t first_experts = 5;
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++)
        for (size_t j = 0; j < sizeof segments / sizeof *segments; j++)
            for (int s = first_storage; s < STORAGES; s++) {
                Case c = new_case(segments[j].offsets, segments[j].groups, segments[j].parts,
                                  widths[i][0], widths[i][1], storages[s], j >= first_experts);
                for (int d = first_device(); d < device_count(); d++) {
                    // Each width with some of the segments: an emulated GPU is slow, and results
                    // differ in the rounding only.
                    if (d > 0 ? (i + 2 * j + (size_t)s) % 6 != 0 : s == 2 && (i + j) % 4 != 0)
                        continue;
                    begin_case("%s matmul N=%lld K=%lld segments %zu %s to %s", device_at(d)->name,
                               (long long)widths[i][0], (long long)widths[i][1], j,
                               dtype_name(storages[s].type), dtype_name(storages[s].result));
                    check_values(device_at(d), &c);
                    check_alone(device_at(d), c, c.rows.groups - 1, c.rows.parts - 1);
                    if (c.rows.parts > 1) check_tree(device_at(d), c);
                }
                if (s < 2) check_threads(c);
                release_all();
            }
}

// A segment's result must not depend on the address modulo a cache line, at sizes where libraries
// block K.
static void check_addresses(void) {
    static const int64_t shapes[][3] = {{16, 128, 512},  {64, 512, 128},   {256, 128, 512},
                                        {64, 1408, 512}, {300, 512, 1408}, {40, 65, 2048}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        int64_t M = shapes[i][0];
        const int64_t offsets[] = {5, 5 + M};
        for (int s = 0; s < 2; s++) {
            Case c = new_case(offsets, 1, 1, shapes[i][1], shapes[i][2], storages[s], false);
            begin_case("addresses M=%lld N=%lld K=%lld %s", (long long)M, (long long)shapes[i][1],
                       (long long)shapes[i][2], dtype_name(storages[s].type));
            if (storages[s].type == BF16 && M <= 64) // the blocks of bf16 products
                check_values(device_at(0), &c);
            else
                run_case(device_at(0), &c);
            check_alone(device_at(0), c, 0, 0);
            release_all();
        }
    }
}

// ---- rows ---------------------------------------------------------------------------------------

// y, and on a GPU dx, of rows [first, first + count) of segment `group` must be those of the same
// rows alone.
static void check_rows(Device *dev, Case c, int64_t group, int64_t first, int64_t count) {
    const int64_t offsets[] = {0, count};
    Case alone = cut(c, group, first, offsets, (Storage){c.x.dtype, c.y.dtype});
    run_rows(dev, &alone);
    expect_same_bytes("y of rows without the others", tensor_rows(alone.y, 0, count),
                      row_of(c.y, first));
    if (dev->place == ON_DEVICE)
        expect_same_bytes("dx of rows without the others", tensor_rows(alone.dx, 0, count),
                          row_of(c.dx, first));
}

// On the CPU, where a library multiplies many rows: every number of them that may be few, as many
// as a tile has and one more, with depths that are summed in blocks.
static void check_rows_on_cpu(void) {
    static const int64_t widths[][2] = {{61, 100}, {70, 1000}, {16, 385}, {9, 2100}, {300, 64}};
    static const int64_t offsets[] = {0, 150};
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++)
        for (int s = 0; s < STORAGES; s++) {
            begin_case("rows on the CPU N=%lld K=%lld %s", (long long)widths[i][0],
                       (long long)widths[i][1], dtype_name(storages[s].type));
            Case c = new_case(offsets, 1, 1, widths[i][0], widths[i][1], storages[s], false);
            run_rows(device_at(0), &c);
            for (int64_t count = 1; count <= 40; count++)
                check_rows(device_at(0), c, 0, 2 * count, count);
            check_rows(device_at(0), c, 0, 20, 128);
            check_rows(device_at(0), c, 0, 1, 129);
            release_all();
        }
}

static void check_row_independence(Device *dev) {
    // The second is wide and long enough for large tiles, which the cuts are not.
    static const int64_t widths[][2] = {{33, 70}, {136, 200}, {72, 16}};
    static const int64_t dense[] = {0, 190}, experts[] = {0, 150, 150, 151, 360};
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++)
        for (int s = first_storage; s < STORAGES; s++) {
            int64_t N = widths[i][0], K = widths[i][1];
            begin_case("rows of a dense layer N=%lld K=%lld %s", (long long)N, (long long)K,
                       dtype_name(storages[s].type));
            Case c = new_case(dense, 1, 1, N, K, storages[s], false);
            run_rows(dev, &c);
            check_rows(dev, c, 0, 0, 1);
            check_rows(dev, c, 0, 37, 100);
            begin_case("rows of experts N=%lld K=%lld %s", (long long)N, (long long)K,
                       dtype_name(storages[s].type));
            c = new_case(experts, 4, 1, N, K, storages[s], true);
            run_rows(dev, &c);
            check_rows(dev, c, 0, 0, 20);
            check_rows(dev, c, 2, 150, 1);
            check_rows(dev, c, 3, 351, 9);
            check_rows(dev, c, 3, 220, 140); // other places in the tiles
            release_all();
        }
}

// Without fixed_order the libraries do what they like with the rows; the values stay.
static void check_free_order(Device *dev) {
    static const int64_t widths[][2] = {{16, 24}, {33, 70}, {128, 64}};
    static const int64_t dense[] = {2, 100}, experts[] = {1, 40, 40, 41, 90, 90};
    dev->fixed_order = false;
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++)
        for (int s = first_storage; s < STORAGES; s++) {
            begin_case("no fixed order N=%lld K=%lld %s to %s", (long long)widths[i][0],
                       (long long)widths[i][1], dtype_name(storages[s].type),
                       dtype_name(storages[s].result));
            Case c = new_case(dense, 1, 1, widths[i][0], widths[i][1], storages[s], false);
            check_values(dev, &c);
            c = new_case(experts, 5, 1, widths[i][0], widths[i][1], storages[s], true);
            check_values(dev, &c);
            release_all();
        }
    dev->fixed_order = true;
}

// The order in which an emulated GPU runs its threads must not matter.
static void check_schedules(Device *dev) {
    static const int64_t offsets[] = {0, 3, 70, 70, 140};
    for (int s = first_storage; s < STORAGES; s++) {
        begin_case("schedules %s", dtype_name(storages[s].type));
        Case c = new_case(offsets, 2, 2, 72, 136, storages[s], true);
        Tensor results[2][3];
        for (int i = 0; i < 2; i++) {
            if (i == 1) begin_other_schedule();
            run_case(dev, &c);
            results[i][0] = copy_of(c.y), results[i][1] = copy_of(c.dx),
            results[i][2] = copy_of(c.dw);
            for (int t = 0; t < 3; t++)
                expect_same_bytes("a result on another schedule", results[i][t],
                                  results[0][t].data);
        }
        end_other_schedule();
        release_all();
    }
}

static void check_many_experts(void) {
    static int64_t offsets[513];
    for (int i = 0; i < 512; i++) offsets[i + 1] = offsets[i] + random_below(9);
    for (int d = first_device(); d < device_count(); d++)
        for (int s = first_storage; s < STORAGES; s++) {
            begin_case("512 experts on %s, %s", device_at(d)->name, dtype_name(storages[s].type));
            Case c = new_case(offsets, 512, 1, 24, 40, storages[s], true);
            check_values(device_at(d), &c);
            release_all();
        }
}

static void bench(int64_t groups, int64_t rows_each, int64_t N, int64_t K, Storage s) {
    static int64_t offsets[MOST_SEGMENTS + 1];
    for (int64_t i = 0; i < groups; i++) offsets[i + 1] = offsets[i] + rows_each;
    Case c = new_case(offsets, groups, 1, N, K, s, groups > 1);
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
        static const int64_t shapes[][4] = {
            {1, 512, 384, 128},   {1, 512, 65, 128},   {8, 128, 512, 128},  {8, 128, 128, 512},
            {1, 2048, 1536, 512}, {8, 512, 2816, 512}, {8, 512, 512, 1408}, {8, 1024, 512, 256},
            {512, 16, 512, 256},  {512, 16, 256, 512},
        };
        for (int s = 0; s < 2; s++) {
            printf("%s\n", dtype_name(storages[s].type));
            for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
                bench(shapes[i][0], shapes[i][1], shapes[i][2], shapes[i][3], storages[s]);
        }
        return 0;
    }
    first_storage = argc > 1 && strcmp(argv[1], "narrow") == 0;
    check_shapes();
    check_many_experts();
    if (first_device() == 0) {
        check_addresses();
        check_rows_on_cpu();
    }
    for (int d = 1; d < device_count(); d++) {
        check_row_independence(device_at(d));
        check_free_order(device_at(d));
        check_schedules(device_at(d));
    }
    return failures();
}
