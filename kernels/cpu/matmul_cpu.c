// Matrix products: forward ones by row_product, whose rows have bits of their own
// (row_products.h), gradients by oneDNN's dnnl_sgemm; one-thread calls on tiles, tiles spread over
// the OpenMP threads.
//
// A tile of a gradient is a function of its segment's shape alone, so that no thread count and no
// neighbour changes how a number is summed. GFLOP/s of one core (Xeon 2.5 GHz, AVX-512), rows x N x
// K, by tests/bench/bench_gemm:
//
//                              64 x 512 x 128   512 x 128 x 512   64 x 1408 x 512
//     dx = dy w  oneDNN 2.6          141               145               125
//                OpenBLAS 0.3        102               116                96
//                LIBXSMM 1.17        143               132                57
//     dw = dyᵀ x oneDNN              138               130               133
//                OpenBLAS             98               108               103
//                LIBXSMM             134                67               111
//
// bf16 is storage: blocks of the operands are widened into a thread's scratch, which the second
// cache holds, multiplied in f32, and a result is rounded once. Depths of more than a block are
// summed block by block, whatever the rows.
#include <string.h>

#include <oneapi/dnnl/dnnl.h>

#include "kernels/cpu/bf16.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/row_products.h"
#include "kernels/cpu/scratch.h"
#include "kernels/integers.h"

enum {
    TILE_ROWS = ROWS_AT_ONCE, // of a segment, for one call
    FEWEST_COLUMNS = 64,      // of a task
    WEIGHT_ROWS = 128,    // of a tile of a weight gradient; half of it for small matrices, so that
    WEIGHT_COLUMNS = 512, // two threads share even one
    BF16_COLUMNS = 256,   // of a block of a bf16 product
    BF16_DEPTH = 1024,    // summed in a block; rows of a weight gradient are a quarter
};

enum { // of a block of a bf16 product: the sums, and both factors widened, or row_product's scratch
    BF16_PRODUCT_FLOATS =
        TILE_ROWS * BF16_COLUMNS + TILE_ROWS * BF16_DEPTH + BF16_COLUMNS * BF16_DEPTH
};

// Of a tile of a weight gradient: a tree of sums over `parts` parts, and widened rows.
static int64_t weight_tree_floats(int64_t parts) {
    int64_t levels = 0;
    while ((int64_t)1 << levels < parts) levels++;
    return levels * WEIGHT_ROWS * WEIGHT_COLUMNS;
}
static int64_t weight_wide_floats(DType storage) {
    return storage == BF16 ? BF16_DEPTH / 4 * (WEIGHT_ROWS + WEIGHT_COLUMNS) : 0;
}

int64_t matmul_scratch_floats(int64_t parts, DType storage) {
    int64_t weight = weight_tree_floats(parts) + weight_wide_floats(storage);
    return larger(weight, storage == BF16 ? BF16_PRODUCT_FLOATS : ROW_PRODUCT_FLOATS);
}

// c (m, n) = op(a) op(b) + beta c, row-major
static void multiply_add(char transpose_a, char transpose_b, int64_t m, int64_t n, int64_t k,
                         const float *a, int64_t a_width, const float *b, int64_t b_width,
                         float beta, float *c, int64_t c_width) {
    dnnl_status_t status = dnnl_sgemm(transpose_a, transpose_b, m, n, k, 1.0f, a, a_width, b,
                                      b_width, beta, c, c_width);
    CHECK_MEMORY(status != dnnl_out_of_memory, "no memory for a matrix product");
    if (status != dnnl_success)
        die(EXIT_COMMUNICATION, __FILE__, __LINE__, "dnnl_sgemm returned %d", (int)status);
}
static void multiply(char transpose_a, char transpose_b, int64_t m, int64_t n, int64_t k,
                     const float *a, int64_t a_width, const float *b, int64_t b_width, float *c,
                     int64_t c_width) {
    multiply_add(transpose_a, transpose_b, m, n, k, a, a_width, b, b_width, 0.0f, c, c_width);
}

// to (rows, columns), without gaps, = a part of a bf16 matrix.
static void widen_block(float *to, const uint16_t *from, int64_t width, int64_t rows,
                        int64_t columns) {
    for (int64_t r = 0; r < rows; r++) widen_bf16(to + r * columns, from + r * width, columns);
}

static int64_t most_rows(Segments rows) {
    int64_t most = 0;
    for (int64_t i = 0; i < rows.groups * rows.parts; i++) {
        int64_t count = rows.offsets[i + 1] - rows.offsets[i];
        if (count > most) most = count;
    }
    return most;
}

// to (M, columns) = from (M, depth) times each group's matrix.
static void multiply_rows(float *to, int64_t columns, const float *from, int64_t depth,
                          const float *w, Segments rows) {
    int64_t tiles = (most_rows(rows) + TILE_ROWS - 1) / TILE_ROWS;
#pragma omp parallel for schedule(dynamic, 1) collapse(2)
    for (int64_t i = 0; i < rows.groups * rows.parts; i++)
        for (int64_t tile = 0; tile < tiles; tile++) {
            int64_t first = rows.offsets[i] + tile * TILE_ROWS;
            int64_t count = smaller(TILE_ROWS, rows.offsets[i + 1] - first);
            if (count > 0)
                multiply('N', 'N', count, columns, depth, from + first * depth, depth,
                         w + i / rows.parts * columns * depth, columns, to + first * columns,
                         columns);
        }
}

// Rows of one tile's result: f32, or rounded to bf16.
static void store_block(Tensor to, int64_t first, int64_t count, int64_t column, int64_t columns,
                        const float *from) {
    int64_t width = to.shape[1];
    for (int64_t r = 0; r < count; r++) {
        int64_t at = (first + r) * width + column;
        if (to.dtype == BF16)
            round_to_bf16(tensor_bf16(to) + at, from + r * columns, columns);
        else
            memcpy(tensor_f32(to) + at, from + r * columns, (size_t)columns * sizeof *from);
    }
}

// The same for bf16 operands.
static void multiply_rows_bf16(Tensor to, Tensor from, Tensor w, Segments rows) {
    int64_t columns = to.shape[1], depth = from.shape[1];
    int64_t tiles = (most_rows(rows) + TILE_ROWS - 1) / TILE_ROWS;
    const uint16_t *a = tensor_bf16(from), *b = tensor_bf16(w);
#pragma omp parallel
    {
        float *sum = thread_scratch((size_t)BF16_PRODUCT_FLOATS * sizeof *sum);
        float *wide_a = sum + TILE_ROWS * BF16_COLUMNS, *wide_b = wide_a + TILE_ROWS * BF16_DEPTH;
#pragma omp for schedule(dynamic, 1) collapse(3)
        for (int64_t i = 0; i < rows.groups * rows.parts; i++)
            for (int64_t tile = 0; tile < tiles; tile++)
                for (int64_t n = 0; n < columns; n += BF16_COLUMNS) {
                    int64_t first = rows.offsets[i] + tile * TILE_ROWS;
                    int64_t count = smaller(TILE_ROWS, rows.offsets[i + 1] - first);
                    int64_t width = smaller(BF16_COLUMNS, columns - n);
                    if (count <= 0) continue;
                    const uint16_t *matrix = b + i / rows.parts * columns * depth;
                    for (int64_t k = 0; k < depth; k += BF16_DEPTH) {
                        int64_t deep = smaller(BF16_DEPTH, depth - k);
                        widen_block(wide_a, a + first * depth + k, depth, count, deep);
                        widen_block(wide_b, matrix + k * columns + n, columns, deep, width);
                        multiply_add('N', 'N', count, width, deep, wide_a, deep, wide_b, width,
                                     k > 0 ? 1.0f : 0.0f, sum, width);
                    }
                    store_block(to, first, count, n, width, sum);
                }
    }
}

// ---- y = x wᵀ -----------------------------------------------------------------------------------

// Tiles of rows are cut by columns too, where there are too few of them for all threads. Neither
// changes a bit.
typedef struct ForwardTiles {
    int64_t tiles;        // of the longest segment
    int64_t width, parts; // columns of a task, and tasks of a tile
} ForwardTiles;

static ForwardTiles forward_tiles(Segments rows, int64_t columns, int64_t widest, int threads) {
    ForwardTiles t = {.tiles = (most_rows(rows) + TILE_ROWS - 1) / TILE_ROWS, .width = widest};
    int64_t filled = 0;
    for (int64_t i = 0; i < rows.groups * rows.parts; i++)
        filled += (rows.offsets[i + 1] - rows.offsets[i] + TILE_ROWS - 1) / TILE_ROWS;
    if (filled < 2 * threads) {
        t.width = FEWEST_COLUMNS;
        while (2 * t.width <= widest && columns / (2 * t.width) * filled >= threads) t.width *= 2;
    }
    t.parts = (columns + t.width - 1) / t.width;
    return t;
}

// Rows [first, first + count) of segment `segment`, columns [column, column + width).
typedef struct ForwardTask {
    int64_t first, count, column, width;
} ForwardTask;

static ForwardTask forward_task(ForwardTiles t, Segments rows, int64_t columns, int64_t segment,
                                int64_t tile, int64_t part) {
    ForwardTask task = {.first = rows.offsets[segment] + tile * TILE_ROWS,
                        .column = part * t.width};
    task.count = smaller(TILE_ROWS, rows.offsets[segment + 1] - task.first);
    task.width = smaller(t.width, columns - task.column);
    return task;
}

// A tile's columns times their scales.
static void scale_columns(float *y, int64_t width, int64_t rows, int64_t columns,
                          const float *scales) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t n = 0; n < columns; n++) y[r * width + n] *= scales[n];
}

// scales: of the rows of w, or NULL.
static void forward_f32(float *y, int64_t N, const float *x, int64_t K, Tensor w,
                        const float *scales, Segments rows, int threads) {
    int64_t bytes = (int64_t)dtype_bytes(w.dtype);
    ForwardTiles t = forward_tiles(rows, N, N, threads);
#pragma omp parallel
    {
        float *scratch = thread_scratch(ROW_PRODUCT_FLOATS * sizeof *scratch);
#pragma omp for schedule(dynamic, 1) collapse(3)
        for (int64_t i = 0; i < rows.groups * rows.parts; i++)
            for (int64_t tile = 0; tile < t.tiles; tile++)
                for (int64_t part = 0; part < t.parts; part++) {
                    ForwardTask task = forward_task(t, rows, N, i, tile, part);
                    if (task.count <= 0) continue;
                    int64_t row = i / rows.parts * N + task.column;
                    WeightRows weights = {(const char *)w.data + row * K * bytes, w.dtype, K};
                    float *to = y + task.first * N + task.column;
                    row_product(to, N, x + task.first * K, K, weights, task.count, task.width, K,
                                false, scratch);
                    if (scales) scale_columns(to, N, task.count, task.width, scales + row);
                }
    }
}

static void forward_bf16(Tensor y, const uint16_t *x, const uint16_t *w, int64_t K, Segments rows,
                         int threads) {
    int64_t N = y.shape[1];
    ForwardTiles t = forward_tiles(rows, N, BF16_COLUMNS, threads);
#pragma omp parallel
    {
        float *sum = thread_scratch((size_t)BF16_PRODUCT_FLOATS * sizeof *sum);
        float *wide_x = sum + TILE_ROWS * BF16_COLUMNS, *scratch = wide_x + TILE_ROWS * BF16_DEPTH;
#pragma omp for schedule(dynamic, 1) collapse(3)
        for (int64_t i = 0; i < rows.groups * rows.parts; i++)
            for (int64_t tile = 0; tile < t.tiles; tile++)
                for (int64_t part = 0; part < t.parts; part++) {
                    ForwardTask task = forward_task(t, rows, N, i, tile, part);
                    if (task.count <= 0) continue;
                    const uint16_t *matrix = w + (i / rows.parts * N + task.column) * K;
                    for (int64_t k = 0; k < K; k += BF16_DEPTH) {
                        int64_t deep = smaller(BF16_DEPTH, K - k);
                        widen_block(wide_x, x + task.first * K + k, K, task.count, deep);
                        row_product(sum, task.width, wide_x, deep,
                                    (WeightRows){matrix + k, BF16, K}, task.count, task.width, deep,
                                    k > 0, scratch);
                    }
                    store_block(y, task.first, task.count, task.column, task.width, sum);
                }
    }
}

void matmul_forward_cpu(Device *dev, Tensor y, Tensor x, Tensor w, Segments rows) {
    int64_t N = y.shape[1], K = x.shape[1];
    if (x.dtype == BF16)
        forward_bf16(y, tensor_bf16(x), tensor_bf16(w), K, rows, dev->threads);
    else
        forward_f32(tensor_f32(y), N, tensor_f32(x), K, w, NULL, rows, dev->threads);
}

void matmul_quantized_cpu(Device *dev, Tensor y, Tensor x, QuantizedMatrix w, Segments rows) {
    forward_f32(tensor_f32(y), y.shape[1], tensor_f32(x), x.shape[1], w.values,
                w.scales.data ? tensor_f32(w.scales) : NULL, rows, dev->threads);
}

// ---- dx = dy w ----------------------------------------------------------------------------------

void matmul_backward_input_cpu(Device *dev, Tensor dx, Tensor dy, Tensor w, Segments rows) {
    int64_t N = dy.shape[1], K = dx.shape[1];
    if (dy.dtype == BF16)
        multiply_rows_bf16(dx, dy, w, rows);
    else
        multiply_rows(tensor_f32(dx), K, tensor_f32(dy), N, tensor_f32(w), rows);
}

// One tile of one group's gradient: rows [n, n + height) and columns [k, k + width).
typedef struct WeightTile {
    const float *dy, *x;              // at the tile's first column
    const uint16_t *bf16_dy, *bf16_x; // or these
    int64_t N, K, height, width;
    float *wide; // for bf16: (BF16_DEPTH / 4) rows of height and of width
} WeightTile;

// sum (height, width) = dyᵀ x over rows [first, first + rows).
static void multiply_part(WeightTile t, float *sum, int64_t sum_width, int64_t first,
                          int64_t rows) {
    if (t.dy) {
        multiply('T', 'N', t.height, t.width, rows, t.dy + first * t.N, t.N, t.x + first * t.K, t.K,
                 sum, sum_width);
        return;
    }
    for (int64_t r = 0; r < rows; r += BF16_DEPTH / 4) {
        int64_t deep = smaller(BF16_DEPTH / 4, rows - r), from = first + r;
        float *wide_x = t.wide + deep * t.height;
        widen_block(t.wide, t.bf16_dy + from * t.N, t.N, deep, t.height);
        widen_block(wide_x, t.bf16_x + from * t.K, t.K, deep, t.width);
        multiply_add('T', 'N', t.height, t.width, deep, t.wide, t.height, wide_x, t.width,
                     r > 0 ? 1.0f : 0.0f, sum, sum_width);
    }
}

// sum (height, width) = the binary tree over the parts, whose rows start at `offsets`, of dyᵀ x.
// spare: a tile's floats for each level below this one.
static void sum_parts(WeightTile t, float *sum, int64_t sum_width, const int64_t *offsets,
                      int64_t parts, float *spare) {
    int64_t rows = offsets[parts] - offsets[0];
    if (rows == 0) {
        for (int64_t n = 0; n < t.height; n++)
            memset(sum + n * sum_width, 0, (size_t)t.width * sizeof *sum);
        return;
    }
    if (parts == 1) {
        multiply_part(t, sum, sum_width, offsets[0], rows);
        return;
    }
    sum_parts(t, sum, sum_width, offsets, parts / 2, spare);
    const int64_t *right = offsets + parts / 2;
    sum_parts(t, spare, t.width, right, parts / 2, spare + t.height * t.width);
    for (int64_t n = 0; n < t.height; n++)
        for (int64_t k = 0; k < t.width; k++) sum[n * sum_width + k] += spare[n * t.width + k];
}

void matmul_backward_weight_cpu(Device *dev, Tensor dw, Tensor dy, Tensor x, Segments rows) {
    int64_t N = dy.shape[1], K = x.shape[1];
    int64_t height = N < 4 * WEIGHT_ROWS ? WEIGHT_ROWS / 2 : WEIGHT_ROWS;
    bool bf16 = x.dtype == BF16;
    float *to = tensor_f32(dw);
#pragma omp parallel
    {
        int64_t tree = weight_tree_floats(rows.parts), wide = weight_wide_floats(x.dtype);
        float *spare = thread_scratch((size_t)(tree + wide) * sizeof *spare);
#pragma omp for schedule(dynamic, 1) collapse(3)
        for (int64_t g = 0; g < rows.groups; g++)
            for (int64_t n = 0; n < N; n += height)
                for (int64_t k = 0; k < K; k += WEIGHT_COLUMNS) {
                    WeightTile t = {.N = N, .K = K, .wide = spare + tree};
                    if (bf16)
                        t.bf16_dy = tensor_bf16(dy) + n, t.bf16_x = tensor_bf16(x) + k;
                    else
                        t.dy = tensor_f32(dy) + n, t.x = tensor_f32(x) + k;
                    t.height = smaller(height, N - n);
                    t.width = smaller(WEIGHT_COLUMNS, K - k);
                    sum_parts(t, to + (g * N + n) * K + k, K, rows.offsets + g * rows.parts,
                              rows.parts, spare);
                }
    }
}
