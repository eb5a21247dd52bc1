// bf16 on a CPU: storage only, the upper half of an f32. Arithmetic is f32.
#ifndef MOETRAIN_KERNELS_CPU_BF16_H
#define MOETRAIN_KERNELS_CPU_BF16_H

#include <stdint.h>
#include <string.h>

static inline float f32_from_bf16(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float x;
    memcpy(&x, &wide, sizeof x);
    return x;
}

// To nearest, ties to even; NaN stays NaN. Branch-free, so that loops become vector code.
static inline uint16_t bf16_from_f32(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
    return (uint16_t)(x == x ? rounded : (bits >> 16 | 0x40u));
}

static inline void widen_bf16(float *to, const uint16_t *from, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) to[i] = f32_from_bf16(from[i]);
}
static inline void round_to_bf16(uint16_t *to, const float *from, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) to[i] = bf16_from_f32(from[i]);
}

#endif
