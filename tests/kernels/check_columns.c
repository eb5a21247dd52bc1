// Blocks of columns on every device: copied, converted, spread from one and summed into one, in all
// pairs of storages.
#include "harness.h"

#include <math.h>
#include <stdio.h>

typedef struct Case {
    Tensor out, x;
    ColumnBlocks blocks;
} Case;

static void run_copy(Device *dev, void *context) {
    Case *c = context;
    copy_columns(dev, c->out, c->x, c->blocks);
}

// What no block reaches keeps its number.
static void check_on(Device *dev, int64_t N, int64_t out_width, int64_t x_width, DType to,
                     DType from, ColumnBlocks blocks) {
    begin_case("%s copy_columns N=%lld %s from %s, %lld blocks of %lld, %lld terms", dev->name,
               (long long)N, dtype_name(to), dtype_name(from), (long long)blocks.blocks,
               (long long)blocks.width, (long long)blocks.terms);
    Tensor x_f32 = random_2d(N, x_width), before = random_2d(N, out_width);
    Case c = {.x = stored_as(from, x_f32), .blocks = blocks};
    c.out = to == F32 ? copy_of(before) : stored_as(to, before);
    double *want = new_doubles(N * out_width), *unit = new_doubles(N * out_width);
    int64_t terms = blocks.terms > 0 ? blocks.terms : 1;
    for (int64_t i = 0; i < N * out_width; i++) want[i] = tensor_f32(before)[i];
    for (int64_t i = 0; i < N * out_width; i++) unit[i] = 0;
    for (int64_t r = 0; r < N; r++)
        for (int64_t b = 0; b < blocks.blocks; b++)
            for (int64_t j = 0; j < blocks.width; j++) {
                int64_t i = r * out_width + blocks.out_first + b * blocks.out_stride + j;
                want[i] = 0;
                for (int64_t t = 0; t < terms; t++) {
                    double term =
                        tensor_f32(x_f32)[r * x_width + blocks.x_first + b * blocks.x_stride +
                                          t * blocks.term_stride + j];
                    want[i] += term;
                    unit[i] += fabs(term);
                }
            }
    run_on(dev, run_copy, &c, TENSORS(&c.out, &c.x));
    // One rounding an addition, of a partial sum that is at most Σ |terms|, and that of the store.
    expect_near("out", c.out, want, storage_eps(to), unit, (double)(terms - 1) * F32_EPS * 1.01);
    if (dev->place == ON_HOST) expect_same_for_any_threads(run_copy, &c, &c.out, 1);
    release_all();
}

int main(int argc, char **argv) {
    if (wants_bench(argc, argv)) {
        Device dev = open_cpu(1);
        Case c = {new_2d(F32, 4096, 512), random_2d(4096, 512), {.blocks = 8, .width = 32}};
        c.blocks.out_stride = 64, c.blocks.x_stride = 32;
        double seconds = time_call(run_copy, &dev, &c);
        printf("copy_columns f32 4096 x 8 blocks of 32: %.1f GB/s\n",
               1e-9 * 2 * 4 * 4096 * 8 * 32 / seconds);
        release_all();
        return 0;
    }
    static const ColumnBlocks cases[] = {
        {.blocks = 1, .width = 7},
        {.blocks = 1, .width = 5, .out_first = 3, .x_first = 9},
        {.blocks = 4, .width = 3, .out_first = 2, .out_stride = 5, .x_first = 1, .x_stride = 3},
        {.blocks = 3, .width = 6, .out_first = 1, .out_stride = 7, .x_first = 4, .x_stride = 0},
        {.blocks = 1, .width = 4, .out_first = 11, .x_first = 2, .terms = 5, .term_stride = 4},
        {.blocks = 2, .width = 2, .out_stride = 4, .x_stride = 2, .terms = 3, .term_stride = 6},
    };
    static const DType storages[] = {F32, BF16};
    static const int64_t rows[] = {0, 1, 37};
    for (int d = 0; d < device_count(); d++)
        for (size_t k = 0; k < sizeof cases / sizeof *cases; k++)
            for (int s = 0; s < 4; s++)
                for (int n = 0; n < 3; n++)
                    check_on(device_at(d), rows[n], 24, 26, storages[s / 2], storages[s % 2],
                             cases[k]);
    return failures();
}
