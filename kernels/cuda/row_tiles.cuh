// Tiles of the rows of segments, of which only the device knows where they begin.
#ifndef MOETRAIN_KERNELS_CUDA_ROW_TILES_CUH
#define MOETRAIN_KERNELS_CUDA_ROW_TILES_CUH

#include "kernels/cuda/launch.cuh"

// Segment s has the row tiles from this number on. One tile more than its rows need may lie before
// the next segment's first, but the numbers follow from the offsets alone, without a sum over
// segments, and grow with s: they can be searched.
__device__ static inline int64_t first_tile(const int64_t *offsets, int64_t s, int side) {
    return (offsets[s] - offsets[0]) / side + s;
}

// The segment whose tiles include `tile`. Whole warp: each step looks at 32 segments at once.
__device__ static inline int64_t find_segment(const int64_t *offsets, int64_t segments, int side,
                                              int64_t tile) {
    int lane = (int)threadIdx.x % WARP;
    int64_t low = 0, high = segments; // first_tile(low) <= tile < first_tile(high)
    while (high - low > 1) {
        int64_t step = (high - low + WARP) / (WARP + 1);
        int64_t candidate = low + (lane + 1) * step;
        bool before = candidate < high && first_tile(offsets, candidate, side) <= tile;
        int64_t passed = __popc(__ballot_sync(ALL_LANES, before));
        low += passed * step;
        if (low + step < high) high = low + step;
    }
    return low;
}

#endif
