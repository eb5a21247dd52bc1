// Philox 4x32-10 (Salmon et al., SC 2011) for many indices at once: the words of rng.h, bit for
// bit, in loops that become vector code.
#ifndef MOETRAIN_KERNELS_CPU_PHILOX_H
#define MOETRAIN_KERNELS_CPU_PHILOX_H

#include <stdint.h>

#include "kernels/rng.h"

enum { PHILOX_LANES = 16 }; // indices that are computed side by side

// words[j][i] = word j of rng_words(stream, index[i]).
static inline void philox_lanes(uint32_t words[4][PHILOX_LANES], RngStream stream,
                                const uint64_t index[PHILOX_LANES]) {
    const uint32_t golden_ratio = 0x9E3779B9u, sqrt3 = 0xBB67AE85u; // what the key grows by
    uint32_t key0 = (uint32_t)stream.seed, key1 = (uint32_t)(stream.seed >> 32);
    uint32_t *c0 = words[0], *c1 = words[1], *c2 = words[2], *c3 = words[3];
    for (int i = 0; i < PHILOX_LANES; i++) {
        // The purpose sits in the top byte of the index's high word (rng.c).
        c0[i] = (uint32_t)index[i];
        c1[i] = (uint32_t)(index[i] >> 32) ^ ((uint32_t)stream.purpose << 24);
        c2[i] = stream.a;
        c3[i] = stream.b;
    }
    for (int round = 0; round < 10; round++) {
#pragma omp simd
        for (int i = 0; i < PHILOX_LANES; i++) {
            uint64_t left = (uint64_t)0xD2511F53u * c0[i];
            uint64_t right = (uint64_t)0xCD9E8D57u * c2[i];
            c0[i] = (uint32_t)(right >> 32) ^ c1[i] ^ key0;
            c1[i] = (uint32_t)right;
            c2[i] = (uint32_t)(left >> 32) ^ c3[i] ^ key1;
            c3[i] = (uint32_t)left;
        }
        key0 += golden_ratio;
        key1 += sqrt3;
    }
}

// words[4k + j] = word j of rng_words(stream, first + k).
//   words (4 · count, and room for count rounded up to PHILOX_LANES)
static inline void philox_words(uint32_t *words, RngStream stream, uint64_t first, int64_t count) {
    for (int64_t k = 0; k < count; k += PHILOX_LANES) {
        uint64_t index[PHILOX_LANES];
        uint32_t lanes[4][PHILOX_LANES];
        for (int i = 0; i < PHILOX_LANES; i++) index[i] = first + (uint64_t)(k + i);
        philox_lanes(lanes, stream, index);
        for (int i = 0; i < PHILOX_LANES; i++)
            for (int j = 0; j < 4; j++) words[4 * (k + i) + j] = lanes[j][i];
    }
}

#endif
