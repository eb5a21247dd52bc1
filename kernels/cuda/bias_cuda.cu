// Biases. Segments of experts lie in device memory; those of a dense layer are equal runs of rows.
#include "kernels/cuda/column_sum.cuh"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/storage.cuh"

enum { ADD_WARPS = 8, ADD_THREADS = ADD_WARPS * WARP, TREE_THREADS = 256 };
enum { ADD_BLOCKS = 64 }; // that share the rows of a group, at most

typedef struct Runs {
    const int64_t *offsets; // (groups · parts + 1); NULL: one group, `rows` each
    int64_t first, rows;
    int64_t groups, parts;
} Runs;

__device__ static inline int64_t begin_of(Runs runs, int64_t segment) {
    return runs.offsets ? runs.offsets[segment] : runs.first + segment * runs.rows;
}

static Runs runs_of(Segments rows) {
    const int64_t *at = rows.offsets;
    Runs runs = {NULL, at[0], at[1] - at[0], rows.groups, rows.parts};
    if (rows.device_offsets.data) {
        runs.offsets = device_data<int64_t>(rows.device_offsets);
        return runs;
    }
    CHECK(rows.groups == 1, "%lld groups without offsets on the device", (long long)rows.groups);
    for (int64_t p = 1; p < rows.parts; p++)
        CHECK(at[p + 1] - at[p] == runs.rows, "part %lld of a dense layer has %lld rows, not %lld",
              (long long)p, (long long)(at[p + 1] - at[p]), (long long)runs.rows);
    return runs;
}

// A block adds the bias to WARP columns of a group; its warps take rows one after the other, lanes
// have neighbouring columns, so that memory is read and written in whole lines. Reads and writes y
// once; no element depends on another.
template <typename T>
__global__ void __launch_bounds__(ADD_THREADS)
    bias_forward_kernel(T *y, const float *bias, Runs runs, int64_t blocks, int N) {
    int tiles = (N + WARP - 1) / WARP;
    int column = (int)(blockIdx.x % tiles) * WARP + threadIdx.x % WARP;
    int64_t block = blockIdx.x / tiles % blocks, group = blockIdx.x / tiles / blocks;
    if (column >= N) return;
    float b = bias[group * N + column];
    int64_t end = begin_of(runs, (group + 1) * runs.parts);
    int64_t row = begin_of(runs, group * runs.parts) + block * ADD_WARPS + threadIdx.x / WARP;
    for (; row < end; row += blocks * ADD_WARPS) {
        T *at = y + row * N + column;
        *at = from_float<T>(to_float(*at) + b);
    }
}

template <typename T> static void add_bias(Device *dev, Tensor y, Tensor bias, Segments rows) {
    int64_t N = y.shape[1], count = rows.offsets[rows.groups * rows.parts] - rows.offsets[0];
    if (count == 0) return;
    int64_t blocks = ceil_div(count, ADD_WARPS * rows.groups);
    if (blocks > ADD_BLOCKS) blocks = ADD_BLOCKS;
    launch(dev, bias_forward_kernel<T>, grid_of(rows.groups * blocks * ceil_div(N, WARP)),
           dim3(ADD_THREADS), 0, device_data<T>(y), device_data<float>(bias), runs_of(rows), blocks,
           N);
}

extern "C" void bias_forward_cuda(Device *dev, Tensor y, Tensor bias, Segments rows) {
    if (y.dtype == BF16)
        add_bias<bf16>(dev, y, bias, rows);
    else
        add_bias<float>(dev, y, bias, rows);
}

// sums[segment] = Σ of the segment's rows (column_sum): an order that follows from their number
// alone. A block has WARP columns of one segment. Reads dy once.
template <typename T>
__global__ void __launch_bounds__(COLUMN_THREADS)
    sum_segments_kernel(float *sums, const T *dy, Runs runs, int N) {
    __shared__ float spare[COLUMN_WARPS][WARP];
    int tiles = (N + WARP - 1) / WARP;
    int column = (int)(blockIdx.x % tiles) * WARP + threadIdx.x % WARP;
    int64_t segment = blockIdx.x / tiles, first = begin_of(runs, segment);
    float sum = column_sum(dy + first * N + column, begin_of(runs, segment + 1) - first, N,
                           column < N, spare);
    if (threadIdx.x < WARP && column < N) sums[segment * N + column] = sum;
}

// dbias[g] = the fixed binary tree over the parts' sums, which it uses up; a thread a column.
__global__ void __launch_bounds__(TREE_THREADS)
    bias_tree_kernel(float *dbias, float *sums, int64_t groups, int64_t parts, int N) {
    int64_t i = (int64_t)blockIdx.x * TREE_THREADS + threadIdx.x;
    if (i >= groups * N) return;
    float *at = sums + i / N * parts * N + i % N;
    for (int64_t apart = 1; apart < parts; apart *= 2)
        for (int64_t p = 0; p < parts; p += 2 * apart) at[p * N] += at[(p + apart) * N];
    dbias[i] = *at;
}

template <typename T> static void sum_bias(Device *dev, Tensor dbias, Tensor dy, Segments rows) {
    int64_t N = dy.shape[1], segments = rows.groups * rows.parts;
    if (segments * N == 0) return;
    float *sums = (float *)cuda_workspace(dev, (size_t)(segments * N) * sizeof *sums);
    launch(dev, sum_segments_kernel<T>, grid_of(segments * ceil_div(N, WARP)), dim3(COLUMN_THREADS),
           0, sums, device_data<T>(dy), runs_of(rows), N);
    launch(dev, bias_tree_kernel, grid_of(ceil_div(rows.groups * N, TREE_THREADS)),
           dim3(TREE_THREADS), 0, device_data<float>(dbias), sums, rows.groups, rows.parts, N);
}

extern "C" void bias_backward_cuda(Device *dev, Tensor dbias, Tensor dy, Segments rows) {
    if (dy.dtype == BF16)
        sum_bias<bf16>(dev, dbias, dy, rows);
    else
        sum_bias<float>(dev, dbias, dy, rows);
}
