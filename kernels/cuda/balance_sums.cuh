// Addends of the sums of balance_ops.h on the GPU.
#ifndef MOETRAIN_KERNELS_CUDA_BALANCE_SUMS_CUH
#define MOETRAIN_KERNELS_CUDA_BALANCE_SUMS_CUH

#include "kernels/balance_ops.h"
#include "kernels/cuda/launch.cuh"

// The whole number of BALANCE_UNIT next to x, ties to the even one.
__device__ static inline unsigned long long balance_units(float x) {
    const float most = (float)BALANCE_ADDEND_MAX;
    float inside = x > 0.0f ? (x < most ? x : most) : 0.0f;
    return (unsigned long long)__double2ll_rn((double)inside / BALANCE_UNIT);
}

#endif
