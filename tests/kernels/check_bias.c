// Biases over the rows of segments, forward and their gradient, against the reference on every
// device; a segment's bits depend neither on its neighbours nor on the number of threads.
#include "harness.h"
#include "reference.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct Case {
    Tensor y, bias, dy, dbias;
    Tensor y_before, dy_f32; // the numbers of dy in f32
    Segments rows;
} Case;

// `offsets` has groups * parts + 1 entries; y has three rows more than the last. Experts: the
// offsets are also where kernels can read them.
static Case new_case(const int64_t *offsets, int64_t groups, int64_t parts, int64_t N, DType T,
                     bool experts) {
    int64_t segments = groups * parts, M = offsets[segments] + 3;
    Case c = {.bias = random_2d(groups, N), .dy_f32 = random_2d(M, N)};
    c.y_before = stored_as(T, random_2d(M, N));
    c.y = new_2d(T, M, N);
    c.dy = stored_as(T, c.dy_f32);
    c.dbias = new_2d(F32, groups, N);
    c.rows = (Segments){groups, parts, offsets, {0}};
    if (experts) {
        c.rows.device_offsets = new_1d(I64, segments + 1);
        memcpy(c.rows.device_offsets.data, offsets, (size_t)(segments + 1) * sizeof *offsets);
    }
    return c;
}

static void run_ops(Device *dev, void *context) {
    Case *c = context;
    copy(dev, c->y, c->y_before);
    bias_forward(dev, c->y, c->bias, c->rows);
    bias_backward(dev, c->dbias, c->dy, c->rows);
}
static void run_case(Device *dev, Case *c) {
    run_on(dev, run_ops, c,
           TENSORS(&c->y, &c->y_before, &c->bias, &c->dy, &c->dbias, &c->rows.device_offsets));
}

// One addition in f32, then one rounding to the storage type: exact. Rows outside stay.
static void check_forward(Case *c) {
    int64_t N = c->y.shape[1];
    Tensor want = widened(c->y_before);
    for (int64_t g = 0; g < c->rows.groups; g++)
        for (int64_t row = c->rows.offsets[g * c->rows.parts];
             row < c->rows.offsets[(g + 1) * c->rows.parts]; row++)
            for (int64_t i = 0; i < N; i++)
                tensor_f32(want)[row * N + i] += tensor_f32(c->bias)[g * N + i];
    expect_same_bytes("y", c->y, stored_as(c->y.dtype, want).data);
}

// Parts of a group are the tree of the parts alone, bit by bit, and none depends on the others.
static void check_tree(Device *dev, Case *c) {
    int64_t N = c->y.shape[1], parts = c->rows.parts;
    Device *cpu = device_at(0); // adds floats on the host
    for (int64_t g = 0; g < c->rows.groups; g++) {
        Tensor sum[4];
        for (int64_t p = 0; p < parts; p++) {
            Case one = *c;
            one.y = copy_of(c->y);
            one.bias = tensor_rows(c->bias, g, 1);
            one.dbias = new_2d(F32, 1, N);
            one.rows = (Segments){1, 1, c->rows.offsets + g * parts + p, {0}};
            if (c->rows.device_offsets.data)
                one.rows.device_offsets = tensor_range(c->rows.device_offsets, g * parts + p, 2);
            run_case(dev, &one);
            sum[p] = one.dbias;
        }
        for (int64_t step = 1; step < parts; step *= 2)
            for (int64_t p = 0; p < parts; p += 2 * step) add(cpu, sum[p], sum[p], sum[p + step]);
        expect_same_bytes("dbias as a tree of its parts", sum[0], tensor_f32(c->dbias) + g * N);
    }
}

static void check_on(Device *dev, const int64_t *offsets, int64_t groups, int64_t parts, int64_t N,
                     DType T, bool experts) {
    begin_case("%s bias %s N=%lld, %lld groups of %lld parts, rows %lld to %lld", dev->name,
               dtype_name(T), (long long)N, (long long)groups, (long long)parts,
               (long long)offsets[0], (long long)offsets[groups * parts]);
    Case c = new_case(offsets, groups, parts, N, T, experts);
    run_case(dev, &c);
    check_forward(&c);
    double *dbias = new_doubles(groups * N), *unit = new_doubles(groups * N);
    reference_bias_backward(dbias, unit, tensor_f32(c.dy_f32), c.rows, N);
    // A random walk of roundings gives √n of them; four times that is never reached by chance.
    double rows = (double)(offsets[groups * parts] - offsets[0]);
    expect_near("dbias", c.dbias, dbias, 0, unit, F32_EPS * (2 + 4 * sqrt(rows)));
    check_tree(dev, &c);
    if (dev->place == ON_HOST) {
        expect_same_for_any_threads(run_ops, &c, (Tensor[]){c.y, c.dbias}, 2);
    } else {
        Case again = c;
        begin_other_schedule();
        again.y = copy_of(c.y), again.dbias = copy_of(c.dbias);
        run_case(dev, &again);
        end_other_schedule();
        expect_same_bytes("y in another order", again.y, c.y.data);
        expect_same_bytes("dbias in another order", again.dbias, c.dbias.data);
    }
    release_all();
}

static void check_shapes(void) {
    static const int64_t widths[] = {1, 7, 32, 65, 300};
    static const struct {
        int64_t groups, parts, offsets[13];
        bool experts;
    } segments[] = {
        {1, 1, {0, 1}, false},                           // a single row
        {1, 1, {0, 0}, false},                           // no rows at all
        {1, 4, {0, 32, 64, 96, 128}, false},             // a dense layer on four shards
        {1, 2, {2, 302, 602}, false},                    // more rows than a block has warps
        {4, 1, {0, 17, 17, 18, 81}, true},               // a starved expert
        {3, 2, {0, 5, 5, 5, 9, 30, 70}, true},           // starved parts
        {2, 4, {2, 9, 9, 20, 22, 22, 22, 22, 90}, true}, // rows that start late
        {1, 2, {3, 3, 40}, true},                        // one of them empty
        {2, 1, {5, 2000, 4600}, true}, // more rows than all blocks of a group take
    };
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++)
        for (size_t j = 0; j < sizeof segments / sizeof *segments; j++)
            for (int bf16 = 0; bf16 < 2; bf16++)
                for (int d = 0; d < device_count(); d++) {
                    if (segments[j].offsets[segments[j].groups * segments[j].parts] > 1000 &&
                        widths[i] > 32)
                        continue; // an emulated GPU is slow
                    check_on(device_at(d), segments[j].offsets, segments[j].groups,
                             segments[j].parts, widths[i], bf16 ? BF16 : F32, segments[j].experts);
                }
}

static void bench(int64_t M, int64_t N) {
    const int64_t offsets[] = {0, M / 4, M / 2, 3 * M / 4, M};
    for (int threads = 1; threads <= 2; threads++) {
        Device dev = open_cpu(threads);
        Case c = new_case(offsets, 1, 4, N, F32, false);
        double seconds = time_call(run_ops, &dev, &c);
        printf("bias M=%lld N=%lld, %d threads: %.2f ms for a copy and both passes, %.1f GB/s\n",
               (long long)M, (long long)N, threads, 1e3 * seconds,
               20e-9 * (double)(M * N) / seconds);
        release_all();
    }
}

int main(int argc, char **argv) {
    if (wants_bench(argc, argv)) {
        bench(4096, 384);
        return 0;
    }
    check_shapes();
    return failures();
}
