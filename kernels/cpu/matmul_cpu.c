// Matrix products by oneDNN's dnnl_sgemm: one-thread calls on tiles, tiles spread over the OpenMP
// threads.
//
// A tile is a function of its segment's shape alone, so that no thread count and no neighbour
// changes how a number is summed. GFLOP/s of one core (Xeon 2.5 GHz, AVX-512), rows x N x K, by
// tests/bench/bench_gemm:
//
//                              64 x 512 x 128   512 x 128 x 512   64 x 1408 x 512
//     y = x wᵀ   oneDNN 2.6          122               122               101
//                OpenBLAS 0.3         82               109                86
//                LIBXSMM 1.17   68   92   20   with a transposed copy of w
//     dx = dy w  oneDNN              141               145               125
//                OpenBLAS            102               116                96
//                LIBXSMM             143               132                57
//     dw = dyᵀ x oneDNN              138               130               133
//                OpenBLAS             98               108               103
//                LIBXSMM             134                67               111
//
// A forward product of our own that transposed x instead of w was up to a quarter faster on 64 rows
// and lost it again on the ragged segments of real steps.
//
// bf16 is storage: blocks of the operands are widened into a thread's scratch, which the second
// cache holds, multiplied in f32, and a result is rounded once. Depths of more than a block are
// summed block by block, whatever the rows.
#include <string.h>

#include <oneapi/dnnl/dnnl.h>

#include "kernels/cpu/bf16.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/scratch.h"
#include "kernels/integers.h"

enum {
    TILE_ROWS = 128,      // of a segment, for one call
    WEIGHT_ROWS = 128,    // of a tile of a weight gradient; half of it for small matrices, so that
    WEIGHT_COLUMNS = 512, // two threads share even one
    BF16_COLUMNS = 256,   // of a block of a bf16 product
    BF16_DEPTH = 1024,    // summed in a block; rows of a weight gradient are a quarter
};

enum { // of a block of a bf16 product: the sums, and both factors widened
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
    return storage == BF16 && BF16_PRODUCT_FLOATS > weight ? BF16_PRODUCT_FLOATS : weight;
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

// to (M, columns) = from (M, depth) times each group's matrix, transposed or not.
static void multiply_rows(float *to, int64_t columns, const float *from, int64_t depth,
                          const float *w, int64_t w_width, char transpose_w, Segments rows) {
    int64_t tiles = (most_rows(rows) + TILE_ROWS - 1) / TILE_ROWS;
#pragma omp parallel for schedule(dynamic, 1) collapse(2)
    for (int64_t i = 0; i < rows.groups * rows.parts; i++)
        for (int64_t tile = 0; tile < tiles; tile++) {
            int64_t first = rows.offsets[i] + tile * TILE_ROWS;
            int64_t count = smaller(TILE_ROWS, rows.offsets[i + 1] - first);
            if (count > 0)
                multiply('N', transpose_w, count, columns, depth, from + first * depth, depth,
                         w + i / rows.parts * columns * depth, w_width, to + first * columns,
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
static void multiply_rows_bf16(Tensor to, Tensor from, Tensor w, char transpose_w, Segments rows) {
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
                        if (transpose_w == 'T')
                            widen_block(wide_b, matrix + n * depth + k, depth, width, deep);
                        else
                            widen_block(wide_b, matrix + k * columns + n, columns, deep, width);
                        multiply_add('N', transpose_w, count, width, deep, wide_a, deep, wide_b,
                                     transpose_w == 'T' ? deep : width, k > 0 ? 1.0f : 0.0f, sum,
                                     width);
                    }
                    store_block(to, first, count, n, width, sum);
                }
    }
}

void matmul_forward_cpu(Device *dev, Tensor y, Tensor x, Tensor w, Segments rows) {
    int64_t N = y.shape[1], K = x.shape[1];
    if (x.dtype == BF16)
        multiply_rows_bf16(y, x, w, 'T', rows);
    else
        multiply_rows(tensor_f32(y), N, tensor_f32(x), K, tensor_f32(w), K, 'T', rows);
}

void matmul_backward_input_cpu(Device *dev, Tensor dx, Tensor dy, Tensor w, Segments rows) {
    int64_t N = dy.shape[1], K = dx.shape[1];
    if (dy.dtype == BF16)
        multiply_rows_bf16(dx, dy, w, 'N', rows);
    else
        multiply_rows(tensor_f32(dx), K, tensor_f32(dy), N, tensor_f32(w), K, 'N', rows);
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
