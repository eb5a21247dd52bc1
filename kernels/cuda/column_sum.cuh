// Sums down the columns of a matrix, in an order that depends on its number of rows alone.
#ifndef MOETRAIN_KERNELS_CUDA_COLUMN_SUM_CUH
#define MOETRAIN_KERNELS_CUDA_COLUMN_SUM_CUH

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/storage.cuh"

enum { COLUMN_WARPS = 16, COLUMN_THREADS = COLUMN_WARPS * WARP };

template <typename Sum, typename Element> __device__ static inline Sum column_element(Element x) {
    return (Sum)x;
}
template <> __device__ inline float column_element<float, bf16>(bf16 x) {
    return to_float(x);
}

// Σ over `rows` of x[row * stride], for a block of COLUMN_THREADS in which lane l of every warp
// passes the same column: warp w adds rows w, w + 16, … in order, then the warps' sums are added in
// order. The sum is valid in the first warp. A warp reads WARP neighbouring columns of a row at a
// time: whole lines. `inside`: whether the lane has a column. `spare` is shared memory; barriers
// stand before its first and after its last use.
template <typename Sum, typename Element>
__device__ static inline Sum column_sum(const Element *x, int64_t rows, int64_t stride, bool inside,
                                        Sum (*spare)[WARP]) {
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    Sum sum = 0;
    if (inside) {
#pragma unroll 4
        for (int64_t row = warp; row < rows; row += COLUMN_WARPS)
            sum += column_element<Sum>(x[row * stride]);
    }
    __syncthreads();
    spare[warp][lane] = sum;
    __syncthreads();
    if (warp == 0)
        for (int w = 1; w < COLUMN_WARPS; w++) sum += spare[w][lane];
    __syncthreads();
    return sum;
}

#endif
