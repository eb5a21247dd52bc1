#include "kernels/rng.h"

#include <math.h>
#include <string.h>

#include <Random123/philox.h>
#include <xxhash.h>

RngStream rng_named(uint64_t seed, RngPurpose purpose, const char *name) {
    uint64_t hash = XXH3_64bits(name, strlen(name));
    return (RngStream){seed, purpose, (uint32_t)hash, (uint32_t)(hash >> 32)};
}

void rng_words(RngStream stream, uint64_t index, uint32_t words[4]) {
    philox4x32_key_t key = {{(uint32_t)stream.seed, (uint32_t)(stream.seed >> 32)}};
    // The purpose sits in the top byte of the index's high word: 2^56 indices a stream.
    uint32_t high = (uint32_t)(index >> 32) ^ ((uint32_t)stream.purpose << 24);
    philox4x32_ctr_t counter = {{(uint32_t)index, high, stream.a, stream.b}};
    philox4x32_ctr_t out = philox4x32(counter, key);
    for (int i = 0; i < 4; i++) words[i] = out.v[i];
}

uint32_t rng_u32(RngStream stream, uint64_t index) {
    uint32_t words[4];
    rng_words(stream, index, words);
    return words[0];
}

float rng_uniform(RngStream stream, uint64_t index) {
    return (float)(rng_u32(stream, index) >> 8) * 0x1p-24f;
}

double rng_normal(RngStream stream, uint64_t index) {
    uint32_t words[4];
    rng_words(stream, index, words);
    double u = ((double)words[0] + 0.5) * 0x1p-32; // in (0, 1)
    double v = (double)words[1] * 0x1p-32;
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586476925 * v);
}
