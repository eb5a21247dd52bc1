// The coefficient of variation of balance sums on the GPU.
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/storage.cuh"

static const int THREADS = 256;

typedef struct VariationArguments {
    float *slopes;       // (parts, E)
    double *variations;  // (parts) scratch: each part's CV²
    const int64_t *sums; // (R, E)
    int64_t E, of_row;   // parts of a row of sums
    int64_t of_total;    // parts of a row of totals
    double *totals;      // (rows, columns)
    int64_t rows, columns;
    VariationTerm term;
    bool add;
} VariationArguments;

// An expert's sum in the scope of the block's part.
__device__ static inline int64_t scope_sum(const VariationArguments &a, int64_t e) {
    int64_t first = (int64_t)blockIdx.x / a.of_row / a.term.run * a.term.run, sum = 0;
#pragma unroll 1
    for (int64_t r = first; r < first + a.term.run; r++) sum += a.sums[r * a.E + e];
    return sum;
}

// A block owns a part. Bytes: 24 E a part and row of its scope. Sums over experts are block_sum's.
__global__ static void __launch_bounds__(THREADS) vary_part(VariationArguments a) {
    __shared__ long long spare_sums[WARP];
    __shared__ double spare[WARP];
    long long all = 0;
#pragma unroll 1
    for (int64_t e = threadIdx.x; e < a.E; e += THREADS) all += scope_sum(a, e);
    all = block_sum(all, spare_sums);
    double mean = (double)all / (double)a.E, variation = 0;
    double scale = a.term.coefficient * a.term.scope_share * 2 / ((double)all * BALANCE_UNIT);
#pragma unroll 1
    for (int64_t e = threadIdx.x; e < a.E && all > 0; e += THREADS) {
        double off = ((double)scope_sum(a, e) - mean) / mean;
        variation += off * off / (double)a.E;
    }
    variation = block_sum(variation, spare);
    float *slope = a.slopes + (int64_t)blockIdx.x * a.E;
#pragma unroll 1
    for (int64_t e = threadIdx.x; e < a.E; e += THREADS) {
        double off = ((double)scope_sum(a, e) - mean) / mean;
        float here = all > 0 ? (float)(scale * (off - variation)) : 0.0f;
        slope[e] = a.add ? slope[e] + here : here;
    }
    if (threadIdx.x == 0) a.variations[blockIdx.x] = variation;
}

// A thread owns a row of totals and adds its parts in order. Bytes: 8 a part.
__global__ static void __launch_bounds__(THREADS) add_variations(VariationArguments a) {
    int64_t row = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (row >= a.rows) return;
    double *total = a.totals + row * a.columns + a.term.column, sum = *total;
#pragma unroll 4
    for (int64_t p = row * a.of_total; p < (row + 1) * a.of_total; p++)
        sum += a.term.part_share * a.variations[p];
    *total = sum;
}

extern "C" void variation_totals_cuda(Device *dev, Tensor totals, Tensor slopes, Tensor sums,
                                      VariationTerm term, bool add) {
    int64_t parts = slopes.shape[0], rows = totals.shape[0];
    VariationArguments a = {device_data<float>(slopes),
                            (double *)cuda_workspace(dev, (size_t)parts * sizeof(double)),
                            device_data<int64_t>(sums),
                            slopes.shape[1],
                            parts / sums.shape[0],
                            parts / rows,
                            device_data<double>(totals),
                            rows,
                            totals.shape[1],
                            term,
                            add};
    launch(dev, vary_part, grid_of(parts), dim3(THREADS), 0, a);
    launch(dev, add_variations, grid_of(ceil_div(rows, THREADS)), dim3(THREADS), 0, a);
}
