// IEEE 754's binary16 on a CPU: storage only. Arithmetic is f32.
#ifndef MOETRAIN_KERNELS_CPU_F16_H
#define MOETRAIN_KERNELS_CPU_F16_H

#include <stdint.h>
#include <string.h>

static inline float f32_of_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
static inline uint32_t bits_of_f32(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

// Exact. A subnormal number is what it adds to 2^-14, in steps of 2^-24.
static inline float f32_from_f16(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = half >> 10 & 31, part = half & 1023;
    if (exponent == 31) return f32_of_bits(sign | 0x7f800000 | part << 13);
    if (exponent > 0) return f32_of_bits(sign | (exponent + 112) << 23 | part << 13);
    float size = f32_of_bits(113u << 23 | part << 13) - 0x1p-14f;
    return f32_of_bits(sign | bits_of_f32(size));
}

// To nearest, ties to even; what is above 65504 by half a step or more becomes infinite.
static inline uint16_t f16_from_f32(float x) {
    uint32_t bits = bits_of_f32(x), sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
    if (size > 0x7f800000) return (uint16_t)(sign | 0x7e00);
    if (size >= 0x47800000) return (uint16_t)(sign | 0x7c00);
    if (size < 0x38800000) // below 2^-14: 0.5 has steps of 2^-24
        return (uint16_t)(sign | (bits_of_f32(f32_of_bits(size) + 0.5f) - 0x3f000000));
    size += 0xfff + (size >> 13 & 1);
    return (uint16_t)(sign | (size - 0x38000000) >> 13);
}

#endif
