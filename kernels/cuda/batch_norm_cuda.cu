#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/storage.cuh"

enum { WARPS = 8, THREADS = WARPS * WARP };

// A block has WARP neighbouring columns of a run of rows, a warp every eighth row: whole lines.
typedef struct Columns {
    int64_t rows; // of a run
    int W;
} Columns;

struct ColumnPlace {
    int64_t first; // of the thread's column in its warp's first row
    int64_t moments;
    int run, column;
    bool inside;
};

__device__ static inline ColumnPlace place_of(Columns c) {
    int tiles = (c.W + WARP - 1) / WARP, run = (int)(blockIdx.x / tiles);
    int column = (int)(blockIdx.x % tiles) * WARP + threadIdx.x % WARP;
    int64_t row = run * c.rows + threadIdx.x / WARP;
    return {row * c.W + column, (int64_t)run * c.W + column, run, column, column < c.W};
}

// What the warps have of each column, in every warp, in their order.
__device__ static inline double over_warps(double value) {
    __shared__ double of_warp[WARPS][WARP];
    int lane = threadIdx.x % WARP;
    __syncthreads();
    of_warp[threadIdx.x / WARP][lane] = value;
    __syncthreads();
    value = 0;
    for (int w = 0; w < WARPS; w++) value += of_warp[w][lane];
    return value;
}

// value(i) summed over the rows of the thread's column.
template <typename Value>
__device__ static inline double column_total(Columns c, ColumnPlace at, Value value) {
    double sum = 0;
    if (at.inside)
        for (int64_t r = threadIdx.x / WARP, i = at.first; r < c.rows; r += WARPS, i += WARPS * c.W)
            sum += value(i);
    return over_warps(sum);
}

// Bytes: x twice.
__global__ static void __launch_bounds__(THREADS)
    column_moments_kernel(float *mean, float *variance, double *sums, int64_t sums_width,
                          int64_t column, const float *x, Columns c) {
    ColumnPlace at = place_of(c);
    double sum = column_total(c, at, [x](int64_t i) { return (double)x[i]; });
    double square = column_total(c, at, [x](int64_t i) { return (double)x[i] * x[i]; });
    double middle = sum / (double)c.rows;
    double spread =
        column_total(c, at, [x, middle](int64_t i) { return (x[i] - middle) * (x[i] - middle); });
    if (!at.inside || threadIdx.x >= WARP) return;
    mean[at.moments] = (float)middle;
    variance[at.moments] = (float)(spread / (double)c.rows);
    double *to = sums + at.run * sums_width + column + at.column;
    to[0] += sum;
    to[c.W] += square;
}

// Bytes: x and out once.
__global__ static void __launch_bounds__(THREADS)
    normalize_columns_kernel(float *out, const float *x, const float *mean, const float *variance,
                             Columns c) {
    ColumnPlace at = place_of(c);
    if (!at.inside) return;
    float middle = mean[at.moments], factor = 1 / sqrtf(variance[at.moments] + BATCH_NORM_EPS);
    for (int64_t r = threadIdx.x / WARP, i = at.first; r < c.rows; r += WARPS, i += WARPS * c.W)
        out[i] = (x[i] - middle) * factor;
}

// dx = (dout - mean(dout) - out mean(dout out)) / sqrt(variance + eps). Bytes: dout three times,
// out twice, dx once.
__global__ static void __launch_bounds__(THREADS)
    normalize_columns_backward_kernel(float *dx, const float *dout, const float *out,
                                      const float *variance, Columns c) {
    ColumnPlace at = place_of(c);
    double rows = (double)c.rows;
    float mean = (float)(column_total(c, at, [dout](int64_t i) { return (double)dout[i]; }) / rows);
    float slope =
        (float)(column_total(c, at, [dout, out](int64_t i) { return (double)dout[i] * out[i]; }) /
                rows);
    if (!at.inside) return;
    float factor = 1 / sqrtf(variance[at.moments] + BATCH_NORM_EPS);
    for (int64_t r = threadIdx.x / WARP, i = at.first; r < c.rows; r += WARPS, i += WARPS * c.W)
        dx[i] = (dout[i] - mean - out[i] * slope) * factor;
}

static Columns columns_of(Tensor x, Tensor moments) {
    return {x.shape[0] / moments.shape[0], (int)x.shape[1]};
}
static dim3 blocks_of(Tensor moments) {
    return grid_of(moments.shape[0] * ceil_div(moments.shape[1], WARP));
}

void column_moments_cuda(Device *dev, ColumnMoments moments, Tensor sums, int64_t column,
                         Tensor x) {
    launch(dev, column_moments_kernel, blocks_of(moments.mean), dim3(THREADS), 0,
           device_data<float>(moments.mean), device_data<float>(moments.variance),
           device_data<double>(sums), sums.shape[1], column, device_data<float>(x),
           columns_of(x, moments.mean));
}

void normalize_columns_cuda(Device *dev, Tensor out, Tensor x, ColumnMoments moments) {
    launch(dev, normalize_columns_kernel, blocks_of(moments.mean), dim3(THREADS), 0,
           device_data<float>(out), device_data<float>(x), device_data<float>(moments.mean),
           device_data<float>(moments.variance), columns_of(x, moments.mean));
}

void normalize_columns_backward_cuda(Device *dev, Tensor dx, Tensor dout, Tensor out,
                                     Tensor variance) {
    launch(dev, normalize_columns_backward_kernel, blocks_of(variance), dim3(THREADS), 0,
           device_data<float>(dx), device_data<float>(dout), device_data<float>(out),
           device_data<float>(variance), columns_of(out, variance));
}
