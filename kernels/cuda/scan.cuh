// Running sums over the lanes of a warp and the threads of a block. Of integers: the order of
// addition does not matter.
#ifndef MOETRAIN_KERNELS_CUDA_SCAN_CUH
#define MOETRAIN_KERNELS_CUDA_SCAN_CUH

#include "kernels/cuda/launch.cuh"

// The sum of this lane's value and of those before it among its `width` neighbours: lanes 0 ..
// width-1, width .. 2·width-1, … width is a power of two, at most 32; the whole warp takes part.
template <typename T> __device__ static inline T lanes_running_sum(T value, int width) {
    int lane = (int)threadIdx.x % width;
    for (int distance = 1; distance < width; distance *= 2) {
        T before = __shfl_up_sync(ALL_LANES, value, (unsigned)distance, width);
        if (lane >= distance) value += before;
    }
    return value;
}

// The sum of the values of all threads before this one; `total` receives the sum over the block, in
// every thread. blockDim.x is a multiple of 32, at most 1024, the block is one-dimensional. `spare`
// is shared memory for 32 values; a barrier stands before its first and after its last use.
template <typename T> __device__ static inline T block_sum_before(T value, T *spare, T *total) {
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    T sum = lanes_running_sum(value, WARP);
    __syncthreads();
    if (lane == WARP - 1) spare[warp] = sum;
    __syncthreads();
    if (warp == 0) {
        T of_warps = lanes_running_sum(lane < warps ? spare[lane] : T(0), WARP);
        spare[lane] = of_warps;
    }
    __syncthreads();
    T before = warp == 0 ? T(0) : spare[warp - 1];
    *total = spare[warps - 1];
    __syncthreads();
    return before + sum - value;
}

#endif
