// Sums and maxima over the lanes of a warp and the threads of a block, always in the same order.
#ifndef MOETRAIN_KERNELS_CUDA_REDUCE_CUH
#define MOETRAIN_KERNELS_CUDA_REDUCE_CUH

#include "kernels/cuda/launch.cuh"

// The sum over all lanes, in every lane: a butterfly, whose additions commute, so all lanes get the
// same bits.
template <typename T> __device__ static inline T warp_sum(T value) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2)
        value += __shfl_xor_sync(ALL_LANES, value, distance);
    return value;
}
__device__ static inline float warp_max(float value) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2)
        value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, distance));
    return value;
}

// The sum over the block's threads, in every thread: warps first, then the warps' sums in the first
// warp. blockDim.x is a multiple of 32, at most 1024, the block is one-dimensional. `spare` is
// shared memory for 32 values; a barrier stands before its first and after its last use.
template <typename T> __device__ static inline T block_sum(T value, T *spare) {
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    value = warp_sum(value);
    __syncthreads();
    if (lane == 0) spare[warp] = value;
    __syncthreads();
    if (warp == 0) {
        value = warp_sum(lane < warps ? spare[lane] : T(0));
        if (lane == 0) spare[0] = value;
    }
    __syncthreads();
    value = spare[0];
    __syncthreads();
    return value;
}
__device__ static inline float block_max(float value, float *spare) {
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    value = warp_max(value);
    __syncthreads();
    if (lane == 0) spare[warp] = value;
    __syncthreads();
    if (warp == 0) {
        value = warp_max(lane < warps ? spare[lane] : -INFINITY);
        if (lane == 0) spare[0] = value;
    }
    __syncthreads();
    value = spare[0];
    __syncthreads();
    return value;
}

#endif
