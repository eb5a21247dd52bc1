// What the kernels of matrix products share: how the results of a tile are written.
#ifndef MOETRAIN_KERNELS_CUDA_PRODUCT_TILE_CUH
#define MOETRAIN_KERNELS_CUDA_PRODUCT_TILE_CUH

#include "kernels/cuda/row_tiles.cuh"
#include "kernels/cuda/storage.cuh"

// Writes `count` neighbouring elements; `together`: as one vector, which the caller knows to be
// aligned and inside.
template <int count, typename O>
__device__ static inline void store_neighbours(O *to, const float *from, int left, bool together) {
    if (together) {
        if (count == 2 && sizeof(O) == 2) {
            *reinterpret_cast<uint32_t *>(to) = pack_bf16(from[0], from[1]);
        } else if (count == 2) {
            *reinterpret_cast<float2 *>(to) = make_float2(from[0], from[1]);
        } else {
            *reinterpret_cast<float4 *>(to) =
                make_float4(from[0], from[1], from[2 % count], from[3 % count]);
        }
        return;
    }
#pragma unroll
    for (int i = 0; i < count; i++)
        if (i < left) to[i] = from_float<O>(from[i]);
}

#endif
