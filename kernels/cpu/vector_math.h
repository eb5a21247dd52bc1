// Vector arithmetic of the CPU ops: as many lanes of f32 as one register holds, sums in an order
// that depends on their length alone, and an exponential that loops over arrays vectorise.
//
// Lanes are the vector extension of GCC and Clang.
#ifndef MOETRAIN_KERNELS_CPU_VECTOR_MATH_H
#define MOETRAIN_KERNELS_CPU_VECTOR_MATH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#include <immintrin.h>
enum { LANES = 16 };
#elif defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif

typedef float Lanes __attribute__((vector_size(4 * LANES)));

static inline Lanes lanes_load(const float *x) {
    Lanes v;
    memcpy(&v, x, sizeof v);
    return v;
}

static inline void lanes_store(float *x, Lanes v) {
    memcpy(x, &v, sizeof v);
}

static inline Lanes lanes_set(float x) {
    return x - (Lanes){0};
}

// a · b + c. GCC contracts no plain expression under -ffp-contract=on, hence the intrinsics.
static inline Lanes lanes_fma(Lanes a, Lanes b, Lanes c) {
#if defined(__AVX512F__)
    return (Lanes)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__) && defined(__FMA__)
    return (Lanes)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

static inline Lanes lanes_max(Lanes a, Lanes b) {
    for (int i = 0; i < LANES; i++) a[i] = a[i] > b[i] ? a[i] : b[i];
    return a;
}

static inline float lanes_sum(Lanes v) {
    float x[LANES];
    lanes_store(x, v);
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++) x[i] += x[i + width];
    return x[0];
}

// Σ a[i] b[i]: four vectors of partial sums, then one, then the tail; a function of n alone.
static inline float dot_product(const float *a, const float *b, int64_t n) {
    Lanes s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};
    int64_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES) {
        s0 = lanes_fma(lanes_load(a + i), lanes_load(b + i), s0);
        s1 = lanes_fma(lanes_load(a + i + LANES), lanes_load(b + i + LANES), s1);
        s2 = lanes_fma(lanes_load(a + i + 2 * LANES), lanes_load(b + i + 2 * LANES), s2);
        s3 = lanes_fma(lanes_load(a + i + 3 * LANES), lanes_load(b + i + 3 * LANES), s3);
    }
    for (; i + LANES <= n; i += LANES) s0 = lanes_fma(lanes_load(a + i), lanes_load(b + i), s0);
    float sum = lanes_sum((s0 + s1) + (s2 + s3));
    for (; i < n; i++) sum += a[i] * b[i];
    return sum;
}

static inline float sum_of(const float *x, int64_t n) {
    Lanes s0 = {0}, s1 = {0};
    int64_t i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        s0 += lanes_load(x + i);
        s1 += lanes_load(x + i + LANES);
    }
    if (i + LANES <= n) {
        s0 += lanes_load(x + i);
        i += LANES;
    }
    float sum = lanes_sum(s0 + s1);
    for (; i < n; i++) sum += x[i];
    return sum;
}

// The largest of n >= 1 numbers. A NaN may or may not win: the sums that follow show it anyway.
static inline float max_of(const float *x, int64_t n) {
    float largest = x[0];
    int64_t i = 0;
    if (n >= LANES) {
        Lanes m = lanes_load(x);
        for (i = LANES; i + LANES <= n; i += LANES) m = lanes_max(m, lanes_load(x + i));
        for (int j = 0; j < LANES; j++) largest = m[j] > largest ? m[j] : largest;
    }
    for (; i < n; i++) largest = x[i] > largest ? x[i] : largest;
    return largest;
}

// e^x within 2 ulp: x = n ln2 + r, |r| <= ln2 / 2, polynomial of Cephes' expf (S. Moshier) for e^r.
// 0 below -87.33, infinity above 88.37 (the true limits of f32 are -103.97 and 88.72); NaN stays
// NaN.
static inline float exp_f32(float x) {
    const float lowest = -87.33f, highest = 88.37f;
    const float to_integer = 0x1.8p23f; // adding it leaves round(x / ln2) in the low bits
    float y = x < lowest ? lowest : x;
    y = y > highest ? highest : y;
    float shifted = y * 1.44269504088896341f + to_integer;
    float n = shifted - to_integer;
    float r = y - n * 0.693359375f; // exact: the constant has 9 bits
    r = r - n * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits + 127u) << 23; // 2^n
    float power;
    memcpy(&power, &bits, sizeof power);
    p = x < lowest ? 0.0f : p * power;
    return x > highest ? INFINITY : p;
}

// tanh within 4e-7 of itself, relatively: Cephes' tanhf (S. Moshier). NaN stays NaN.
static inline float tanh_f32(float x) {
    float a = fabsf(x), z = x * x;
    float p = -5.70498872745e-3f;
    p = p * z + 2.06390887954e-2f;
    p = p * z - 5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z - 3.33332819422e-1f;
    float large = 1.0f - 2.0f / (exp_f32(2.0f * a) + 1.0f);
    return a < 0.625f ? p * z * x + x : copysignf(large, x);
}

static inline Lanes lanes_tanh(Lanes x) {
    float t[LANES];
    lanes_store(t, x);
    for (int i = 0; i < LANES; i++) t[i] = tanh_f32(t[i]);
    return lanes_load(t);
}

static inline Lanes lanes_exp(Lanes x) {
    float e[LANES];
    lanes_store(e, x);
    for (int i = 0; i < LANES; i++) e[i] = exp_f32(e[i]);
    return lanes_load(e);
}

// Σ e^(x[i] - shift)
static inline float sum_of_exp(const float *x, int64_t n, float shift) {
    enum { BLOCK = 256 };
    float e[BLOCK], sum = 0.0f;
    for (int64_t first = 0; first < n; first += BLOCK) {
        int64_t count = n - first < BLOCK ? n - first : BLOCK;
        for (int64_t i = 0; i < count; i++) e[i] = exp_f32(x[first + i] - shift);
        sum += sum_of(e, count);
    }
    return sum;
}

// log x of a normal x > 0 within 2 ulp: x = m 2^e, sqrt(1/2) <= m < sqrt(2), polynomial of Cephes'
// logf for log m. NaN stays NaN.
static inline float log_f32(float x) {
    const uint32_t sqrt_half = 0x3f3504f3u;
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits -= sqrt_half;
    float e = (float)((int32_t)bits >> 23), m;
    bits = (bits & 0x7fffffu) + sqrt_half;
    memcpy(&m, &bits, sizeof m);
    m -= 1.0f;
    float p = 7.0376836292e-2f;
    p = p * m - 1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m - 1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m - 1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m - 2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    float square = m * m, tail = p * m * square - 2.12194440e-4f * e - 0.5f * square;
    float log = m + tail + 0.693359375f * e;
    return x != x ? x : log;
}

static inline float sigmoid_f32(float x) {
    return 1.0f / (1.0f + exp_f32(-x));
}

// max(x, 0) + log(1 + e^-|x|), of which the last is at least 0
static inline float softplus_f32(float x) {
    return (x > 0.0f ? x : 0.0f) + log_f32(1.0f + exp_f32(-fabsf(x)));
}

// The normal distribution: its density, and Φ(x) = (1 + erf(x / √2)) / 2, its share below x. For a
// >= 0 is Φ(-a) = e^(-a²/2) P(t) t, t = 1 / (1 + 0.35 a), P fitted to a relative error of 3.2e-8 at
// any a; with roundings 4e-7, and what a rounded exponent adds: up to a²/2 · 2^-23. 0 below -13.2;
// NaN stays NaN.
static inline float normal_density_f32(float x) {
    return 0.398942280f * exp_f32(-0.5f * x * x);
}
static inline float normal_share_f32(float x) {
    float a = fabsf(x), t = 1.0f / (1.0f + 0.35f * a);
    float p = -2.91149784e-2f;
    p = p * t + 1.43818259e-1f;
    p = p * t - 2.55390733e-1f;
    p = p * t + 1.58796310e-1f;
    p = p * t - 2.28432920e-2f;
    p = p * t + 1.05392106e-1f;
    p = p * t + 1.19863093e-1f;
    p = p * t + 1.39857560e-1f;
    p = p * t + 1.39621660e-1f;
    float below = exp_f32(-0.5f * a * a) * (p * t);
    return x < 0.0f ? below : 1.0f - below;
}

#endif
