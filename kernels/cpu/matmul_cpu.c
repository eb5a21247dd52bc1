// Matrix products by oneDNN's dnnl_sgemm: one-thread calls on tiles, tiles spread over the OpenMP threads.
//
// A tile is a function of its segment's shape alone, so that no thread count and no neighbour changes how a
// result is summed.
#include <string.h>

#include <oneapi/dnnl/dnnl.h>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/scratch.h"

enum {
    TILE_ROWS = 256,  // rows of a segment that one library call takes
    TILE_WEIGHT = 256 // rows and columns of a tile of a weight gradient
};

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}
static int64_t tiles_of(int64_t n, int64_t tile) {
    return (n + tile - 1) / tile;
}

// c (m, n) = op(a) op(b), row-major
static void multiply(char transpose_a, char transpose_b, int64_t m, int64_t n, int64_t k,
                     const float *a, int64_t a_width, const float *b, int64_t b_width, float *c,
                     int64_t c_width) {
    dnnl_status_t status = dnnl_sgemm(transpose_a, transpose_b, m, n, k, 1.0f, a, a_width, b,
                                      b_width, 0.0f, c, c_width);
    CHECK(status == dnnl_success, "dnnl_sgemm returned %d", (int)status);
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
    int64_t tiles = tiles_of(most_rows(rows), TILE_ROWS);
#pragma omp parallel for schedule(dynamic, 1) collapse(2)
    for (int64_t i = 0; i < rows.groups * rows.parts; i++)
        for (int64_t tile = 0; tile < tiles; tile++) {
            int64_t first = rows.offsets[i] + tile * TILE_ROWS;
            int64_t count = least(TILE_ROWS, rows.offsets[i + 1] - first);
            if (count > 0)
                multiply('N', transpose_w, count, columns, depth, from + first * depth, depth,
                         w + i / rows.parts * columns * depth, w_width, to + first * columns,
                         columns);
        }
}

void matmul_forward_cpu(Device *dev, Tensor y, Tensor x, Tensor w, Segments rows) {
    int64_t N = y.shape[1], K = x.shape[1];
    multiply_rows(tensor_f32(y), N, tensor_f32(x), K, tensor_f32(w), K, 'T', rows);
}

void matmul_backward_input_cpu(Device *dev, Tensor dx, Tensor dy, Tensor w, Segments rows) {
    int64_t N = dy.shape[1], K = dx.shape[1];
    multiply_rows(tensor_f32(dx), K, tensor_f32(dy), N, tensor_f32(w), K, 'N', rows);
}

// One tile of one group's gradient: rows [n, n + height) and columns [k, k + width).
typedef struct WeightTile {
    const float *dy, *x; // at the tile's first column
    int64_t N, K, height, width;
} WeightTile;

// sum (height, width) = the binary tree over parts [first, first + parts) of dyᵀ x.
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
    int64_t tiles_n = tiles_of(N, TILE_WEIGHT), tiles_k = tiles_of(K, TILE_WEIGHT);
    const float *dy_data = tensor_f32(dy), *x_data = tensor_f32(x);
    float *to = tensor_f32(dw);
    int64_t levels = 0;
    while ((int64_t)1 << levels < rows.parts) levels++;
#pragma omp parallel
    {
        float *spare = thread_scratch((size_t)(levels * TILE_WEIGHT * TILE_WEIGHT) * sizeof *spare);
#pragma omp for schedule(dynamic, 1) collapse(3)
        for (int64_t g = 0; g < rows.groups; g++)
            for (int64_t i = 0; i < tiles_n; i++)
                for (int64_t j = 0; j < tiles_k; j++) {
                    int64_t n = i * TILE_WEIGHT, k = j * TILE_WEIGHT;
                    WeightTile t = {dy_data + n,
                                    x_data + k,
                                    N,
                                    K,
                                    least(TILE_WEIGHT, N - n),
                                    least(TILE_WEIGHT, K - k)};
                    sum_parts(t, to + (g * N + n) * K + k, K, rows.offsets + g * rows.parts,
                              rows.parts, spare);
                }
    }
}
