// Matrix products, one thread a tile of the result.
//
// A tile is a function of its segment's shape alone, so that no thread count and no neighbour changes how a
// number is summed. Backward tiles are one-thread calls of oneDNN's dnnl_sgemm, forward tiles are our own (below).
// GFLOP/s of one core (Xeon 2.5 GHz, AVX-512) for rows x N x K, by tests/bench/bench_gemm:
//
//                          64 x 512 x 128   512 x 128 x 512   64 x 1408 x 512
//     forward  own               128               124               125
//              oneDNN 2.6        122               122               101
//              OpenBLAS 0.3       82               109                86
//              LIBXSMM 1.17       68                92                20   with a transposed copy of w
//     input    oneDNN            141               145               125
//              OpenBLAS          102               116                96
//              LIBXSMM           143               132                57
//     weight   oneDNN            138               130               133
//              OpenBLAS           98               108               103
//              LIBXSMM           134                67               111
#include <string.h>

#include <oneapi/dnnl/dnnl.h>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/register_tile.h"
#include "kernels/cpu/scratch.h"

enum {
    TILE_ROWS = 64,       // rows of a segment that one task takes
    TILE_COLUMNS = 256,   // and columns of its result, forward
    WEIGHT_ROWS = 128,    // of a tile of a weight gradient; half of it for small matrices, so that
    WEIGHT_COLUMNS = 512, // two threads share even one
};

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}
static int64_t tiles_of(int64_t n, int64_t tile) {
    return (n + tile - 1) / tile;
}

// Row tiles of the longest segment.
static int64_t row_tiles(Segments rows) {
    int64_t most = 0;
    for (int64_t i = 0; i < rows.groups * rows.parts; i++) {
        int64_t count = rows.offsets[i + 1] - rows.offsets[i];
        if (count > most) most = count;
    }
    return tiles_of(most, TILE_ROWS);
}

// c (m, n) = op(a) op(b), row-major, by the library
static void multiply(char transpose_a, char transpose_b, int64_t m, int64_t n, int64_t k,
                     const float *a, int64_t a_width, const float *b, int64_t b_width, float *c,
                     int64_t c_width) {
    dnnl_status_t status = dnnl_sgemm(transpose_a, transpose_b, m, n, k, 1.0f, a, a_width, b,
                                      b_width, 0.0f, c, c_width);
    CHECK(status == dnnl_success, "dnnl_sgemm returned %d", (int)status);
}

// ---- forward -------------------------------------------------------------------------------------------

// A library transposes w at every call, which costs as much as the product of a few rows. Here x is transposed
// instead: a register holds one feature of LANES tokens, w is read as it lies in memory, and small blocks of yᵀ
// are turned back.
enum {
    PANEL = REGISTER_COLUMNS, // tokens of x that a register tile takes
    FEATURES = TRANSPOSE,     // columns of y made at a time
};

// Asks for memory that the processor's own prefetching misses, because several rows are read side by side.
static void prefetch(const float *x, int64_t count) {
    enum { LINE = 16 };
    for (int64_t i = 0; i < count; i += LINE) __builtin_prefetch(x + i, 0, 2);
}

// y (rows, columns) = x (rows, K) w (columns, K)ᵀ within matrices of N and K columns
static void forward_tile(float *y, const float *x, const float *w, int64_t rows, int64_t columns,
                         int64_t N, int64_t K) {
    if (LANES < 16) { // compiled for less than AVX-512: the library may know the processor better
        multiply('N', 'T', rows, columns, K, x, K, w, K, y, N);
        return;
    }
    int64_t whole = columns / REGISTER_ROWS * REGISTER_ROWS;
    float *x_t = thread_scratch((size_t)((PANEL + REGISTER_ROWS) * K) * sizeof *x_t); // (K, PANEL)
    float *last = x_t + PANEL * K; // (REGISTER_ROWS, K): the last rows of w, then zeros
    memset(last, 0, (size_t)(REGISTER_ROWS * K) * sizeof *last);
    memcpy(last, w + whole * K, (size_t)((columns - whole) * K) * sizeof *last);
    for (int64_t row = 0; row < rows; row += PANEL) {
        int64_t tokens = least(PANEL, rows - row);
        if (tokens < PANEL) memset(x_t, 0, (size_t)(PANEL * K) * sizeof *x_t);
        transpose(x_t, PANEL, x + row * K, K, tokens, K);
        for (int64_t n = 0; n < columns; n += FEATURES) {
            int64_t end = least(n + FEATURES, columns);
            float y_t[FEATURES * PANEL];
            for (int64_t i = n; i < end; i += REGISTER_ROWS) {
                Factor part = {i < whole ? w + i * K : last, K, 1};
                if (row == 0 && i + REGISTER_ROWS < whole)
                    prefetch(w + (i + REGISTER_ROWS) * K, REGISTER_ROWS * K);
                float *to = y_t + (i - n) * PANEL;
                if (tokens > LANES)
                    multiply_tile(to, PANEL, part, x_t, PANEL, K, 2, false);
                else
                    multiply_tile(to, PANEL, part, x_t, PANEL, K, 1, false);
            }
            transpose(y + row * N + n, N, y_t, PANEL, end - n, tokens);
        }
    }
}

void matmul_forward_cpu(Device *dev, Tensor y, Tensor x, Tensor w, Segments rows) {
    int64_t N = y.shape[1], K = x.shape[1], tiles = row_tiles(rows);
    const float *from = tensor_f32(x), *weight = tensor_f32(w);
    float *to = tensor_f32(y);
#pragma omp parallel for schedule(dynamic, 1) collapse(3)
    for (int64_t i = 0; i < rows.groups * rows.parts; i++)
        for (int64_t tile = 0; tile < tiles; tile++)
            for (int64_t n = 0; n < N; n += TILE_COLUMNS) {
                int64_t first = rows.offsets[i] + tile * TILE_ROWS;
                int64_t count = least(TILE_ROWS, rows.offsets[i + 1] - first);
                if (count > 0)
                    forward_tile(to + first * N + n, from + first * K,
                                 weight + (i / rows.parts * N + n) * K, count,
                                 least(TILE_COLUMNS, N - n), N, K);
            }
}

// ---- backward ------------------------------------------------------------------------------------------

void matmul_backward_input_cpu(Device *dev, Tensor dx, Tensor dy, Tensor w, Segments rows) {
    int64_t N = dy.shape[1], K = dx.shape[1], tiles = row_tiles(rows);
    const float *from = tensor_f32(dy), *weight = tensor_f32(w);
    float *to = tensor_f32(dx);
#pragma omp parallel for schedule(dynamic, 1) collapse(2)
    for (int64_t i = 0; i < rows.groups * rows.parts; i++)
        for (int64_t tile = 0; tile < tiles; tile++) {
            int64_t first = rows.offsets[i] + tile * TILE_ROWS;
            int64_t count = least(TILE_ROWS, rows.offsets[i + 1] - first);
            if (count > 0)
                multiply('N', 'N', count, K, N, from + first * N, N,
                         weight + i / rows.parts * N * K, K, to + first * K, K);
        }
}

// One tile of one group's gradient: rows [n, n + height) and columns [k, k + width).
typedef struct WeightTile {
    const float *dy, *x; // at the tile's first column
    int64_t N, K, height, width;
} WeightTile;

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
        multiply('T', 'N', t.height, t.width, rows, t.dy + offsets[0] * t.N, t.N,
                 t.x + offsets[0] * t.K, t.K, sum, sum_width);
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
    const float *dy_data = tensor_f32(dy), *x_data = tensor_f32(x);
    float *to = tensor_f32(dw);
    int64_t levels = 0;
    while ((int64_t)1 << levels < rows.parts) levels++;
#pragma omp parallel
    {
        float *spare =
            thread_scratch((size_t)(levels * WEIGHT_ROWS * WEIGHT_COLUMNS) * sizeof *spare);
#pragma omp for schedule(dynamic, 1) collapse(3)
        for (int64_t g = 0; g < rows.groups; g++)
            for (int64_t n = 0; n < N; n += height)
                for (int64_t k = 0; k < K; k += WEIGHT_COLUMNS) {
                    WeightTile t = {
                        dy_data + n, x_data + k,           N,
                        K,           least(height, N - n), least(WEIGHT_COLUMNS, K - k)};
                    sum_parts(t, to + (g * N + n) * K + k, K, rows.offsets + g * rows.parts,
                              rows.parts, spare);
                }
    }
}
