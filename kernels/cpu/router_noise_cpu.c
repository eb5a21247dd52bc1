#include <math.h>
#include <string.h>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/philox.h"
#include "kernels/cpu/vector_math.h"

enum { TILE = 512 }; // numbers at a time

// The words of numbers [number, number + count) of a stream, count <= TILE. Returns the first.
enum { WORDS = TILE + 4 * (PHILOX_LANES + 2) };
static const uint32_t *words_at(uint32_t words[WORDS], RngStream stream, uint64_t number,
                                int64_t count) {
    int64_t before = (int64_t)(number % 4); // of the first four, those that belong to others
    philox_words(words, stream, number / 4, (before + count + 3) / 4);
    return words + before;
}

// cos and sin of a turn's share v in [0, 1): 2π (v - q / 4) lies within π/4 of 0, where Cephes'
// polynomials hold; q says which of the two it is, and its sign.
static inline void cos_sin_of_turn(float *cosine, float *sine, float v) {
    int32_t q = (int32_t)(4.0f * v + 0.5f);
    float x = 6.283185307f * (v - 0.25f * (float)q), x2 = x * x;
    float s = -1.9515295891e-4f;
    s = s * x2 + 8.3321608736e-3f;
    s = s * x2 - 1.6666654611e-1f;
    s = s * x2 * x + x;
    float c = 2.443315711809948e-5f;
    c = c * x2 - 1.388731625493765e-3f;
    c = c * x2 + 4.166664568298827e-2f;
    c = c * x2 * x2 - 0.5f * x2 + 1.0f;
    float first = q & 1 ? s : c, second = q & 1 ? c : s;
    *cosine = (q + 1) & 2 ? -first : first;
    *sine = q & 2 ? -second : second;
}

// normal[4i + 2j], [4i + 2j + 1]: Box and Muller's pair of the words 2j, 2j + 1 of four. Uniform
// numbers have 24 bits: the farthest normal is 5.8.
static void normals(float *normal, const uint32_t *words, int64_t fours) {
    for (int64_t i = 0; i < 2 * fours; i++) {
        float u = 1.0f - (float)(words[2 * i] >> 8) * 0x1p-24f; // in (0, 1], exact
        float v = (float)(words[2 * i + 1] >> 8) * 0x1p-24f;
        float radius = sqrtf(-2.0f * log_f32(u)), cosine, sine;
        cos_sin_of_turn(&cosine, &sine, v);
        normal[2 * i] = radius * cosine;
        normal[2 * i + 1] = radius * sine;
    }
}
static const float *normals_at(float normal[WORDS], RngStream stream, uint64_t number,
                               int64_t count) {
    uint32_t words[WORDS];
    int64_t before = (int64_t)(number % 4);
    words_at(words, stream, number, count);
    normals(normal, words, (before + count + 3) / 4);
    return normal + before;
}

// Of the scales s and their noise ε: to = from + ε softplus(s) or, backward, from · ε sigmoid(s).
static void noise_rows(float *to, const float *from, Tensor scale, RouterNoise noise,
                       bool backward) {
    int64_t count = tensor_elements(scale), E = scale.shape[1];
    const float *s = tensor_f32(scale);
#pragma omp parallel for schedule(static)
    for (int64_t at = 0; at < count; at += TILE) {
        int64_t here = count - at < TILE ? count - at : TILE;
        float room[WORDS];
        const float *normal =
            normals_at(room, noise.stream, (uint64_t)(noise.first_token * E + at), here);
        if (backward) {
            for (int64_t i = at; i < at + here; i++)
                to[i] = from[i] * normal[i - at] * sigmoid_f32(s[i]);
        } else {
            for (int64_t i = at; i < at + here; i++)
                to[i] = from[i] + normal[i - at] * softplus_f32(s[i]);
        }
    }
}

void router_noise_forward_cpu(Device *dev, Tensor out, Tensor logits, Tensor scale,
                              RouterNoise noise) {
    noise_rows(tensor_f32(out), tensor_f32(logits), scale, noise, false);
}

void router_noise_backward_cpu(Device *dev, Tensor dscale, Tensor dlogits, Tensor scale,
                               RouterNoise noise) {
    noise_rows(tensor_f32(dscale), tensor_f32(dlogits), scale, noise, true);
}

void router_jitter_cpu(Device *dev, Tensor out, Tensor x, float amount, RouterNoise noise) {
    int64_t count = tensor_elements(x), D = x.shape[1];
    const float *from = tensor_f32(x);
    float *to = tensor_f32(out);
#pragma omp parallel for schedule(static)
    for (int64_t at = 0; at < count; at += TILE) {
        int64_t here = count - at < TILE ? count - at : TILE;
        uint32_t room[WORDS];
        const uint32_t *word =
            words_at(room, noise.stream, (uint64_t)(noise.first_token * D + at), here);
        for (int64_t i = 0; i < here; i++) {
            float uniform = (float)(word[i] >> 8) * 0x1p-23f - 1.0f; // in [-1, 1)
            to[at + i] = from[at + i] * (1.0f + amount * uniform);
        }
    }
}
