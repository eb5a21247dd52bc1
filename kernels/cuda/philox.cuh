// Philox 4x32-10 (Salmon et al., SC 2011) for kernels: the words of rng.h, bit for bit, from the
// same streams and indices.
#ifndef MOETRAIN_KERNELS_CUDA_PHILOX_CUH
#define MOETRAIN_KERNELS_CUDA_PHILOX_CUH

#include <cuda_runtime.h>
#include <stdint.h>

#include "kernels/rng.h"

// rng_words: the four words at `index`.
__device__ static inline uint4 philox_words(RngStream stream, uint64_t index) {
    const uint32_t multiplier0 = 0xD2511F53u, multiplier1 = 0xCD9E8D57u;
    const uint32_t golden_ratio = 0x9E3779B9u, sqrt3 = 0xBB67AE85u; // what the key grows by
    uint32_t key0 = (uint32_t)stream.seed, key1 = (uint32_t)(stream.seed >> 32);
    // The purpose sits in the top byte of the index's high word (rng.c).
    uint32_t c0 = (uint32_t)index, c1 = (uint32_t)(index >> 32) ^ ((uint32_t)stream.purpose << 24);
    uint32_t c2 = stream.a, c3 = stream.b;
#pragma unroll
    for (int round = 0; round < 10; round++) {
        uint32_t high0 = __umulhi(multiplier0, c0), low0 = multiplier0 * c0;
        uint32_t high1 = __umulhi(multiplier1, c2), low1 = multiplier1 * c2;
        c0 = high1 ^ c1 ^ key0;
        c1 = low1;
        c2 = high0 ^ c3 ^ key1;
        c3 = low0;
        key0 += golden_ratio;
        key1 += sqrt3;
    }
    return make_uint4(c0, c1, c2, c3);
}

// rng_u32: the first of the four.
__device__ static inline uint32_t philox_u32(RngStream stream, uint64_t index) {
    return philox_words(stream, index).x;
}

#endif
