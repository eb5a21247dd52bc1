// The fixed binary tree over parts (kernels.h), as a warp adds it up while the parts come one after
// another, some of them empty.
#ifndef MOETRAIN_KERNELS_CUDA_PART_TREE_CUH
#define MOETRAIN_KERNELS_CUDA_PART_TREE_CUH

#include "kernels/cuda/storage.cuh"
#include "kernels/cuda/launch.cuh"

// `sum` belongs to the newest part and all that is joined with it; slot h holds the sum that waits
// at height h of the tree for its right neighbour, if bit h of `waiting` is set. A lane has its own
// WIDTH columns of every slot, a multiple of 4; slots are the columns of a warp apart. Empty parts
// are +0, which changes no sum: sums begin at +0 and so are never -0.
template <int WIDTH>
__device__ static inline void join_below(float *sum, unsigned *waiting, int height,
                                         const float *slots) {
    while (unsigned below = *waiting & ((1u << height) - 1)) {
        int lowest = __ffs(below) - 1;
        *waiting ^= 1u << lowest;
        float left[WIDTH];
#pragma unroll
        for (int i = 0; i < WIDTH; i += 4) load_vector(left + i, slots + lowest * WARP * WIDTH + i);
#pragma unroll
        for (int i = 0; i < WIDTH; i++) sum[i] = left[i] + sum[i];
    }
}

// A part begins whose sum meets that of the one before at this height.
template <int WIDTH>
__device__ static inline void wait_for(float *sum, unsigned *waiting, int height, float *slots) {
    join_below<WIDTH>(sum, waiting, height, slots);
#pragma unroll
    for (int i = 0; i < WIDTH; i += 4) store_vector(slots + height * WARP * WIDTH + i, sum + i);
    *waiting |= 1u << height;
#pragma unroll
    for (int i = 0; i < WIDTH; i++) sum[i] = 0.0f;
}

#endif
