// Random numbers without state: Philox 4x32-10 (Salmon et al., SC 2011; library Random123).
//
// A number is a function of (seed, purpose, a, b, index) and of nothing else, so it is the same on
// any number of ranks and threads and after a resume. Typically a = step, b = layer, index = global
// token or element. Not collective, thread-safe.
#ifndef MOETRAIN_KERNELS_RNG_H
#define MOETRAIN_KERNELS_RNG_H

#include <stdint.h>

#ifdef __cplusplus // .cu files
extern "C" {
#endif

// What a number is for; two purposes never share a stream. The values are part of the checkpoint
// format's promise of equal resumes: append, never renumber.
typedef enum RngPurpose {
    RNG_INIT = 1,       // a, b = the parameter's name (rng_named), index = global element
    RNG_DATA_ORDER = 2, // a = epoch, b = Feistel round, index = half of the index
    RNG_DROP = 3,       // a = step, b = layer, index = token of the step * K + slot
    RNG_SAMPLE = 4,     // a = sample, b = 0, index = position of the generated token
    RNG_TEST = 5,
    RNG_EVALUATION_DROP = 6, // a = 0, b = layer, index = token of the validation file * K + slot
    // b = layer, index = token of the step, or of the validation file, * E + expert
    RNG_ROUTER_NOISE = 7,     // a = step
    RNG_EVALUATION_NOISE = 8, // a = 0
    RNG_JITTER = 9,           // a = step, b = layer, index = token of the step * D + column
    // a = step, b = layer, index = token of the step * K + slot; a = UINT32_MAX: index = expert
    RNG_FORCED = 10,
    // a = step, index = row * columns + column (dropout in kernels.h); the row is the token of the
    // step
    RNG_DROPOUT_EMBEDDING = 11, // b = 0
    RNG_DROPOUT_ATTENTION = 12, // b = layer, index as attention_ops.h has it
    RNG_DROPOUT_RESIDUAL = 13,  // b = 2 * layer, + 1 of the feed-forward
    RNG_DROPOUT_EXPERT = 14,    // b = layer; the row as experts.c counts it
    RNG_HASH = 15,              // seed = 0, a = 0, b = layer, index = token id * K + slot
    // b = 0, index = token (masked_tokens.h)
    RNG_MASK = 16,            // a = epoch, the token's place in its order
    RNG_EVALUATION_MASK = 17, // a = 0, of the validation file
    RNG_SEARCH = 18,          // a, b = the key's name (rng_named), index = draw of `compare`
} RngPurpose;

typedef struct RngStream {
    uint64_t seed;
    RngPurpose purpose;
    uint32_t a, b;
} RngStream;

// The stream of a name: a and b are the low and the high half of its XXH3-64. What stands beside
// it, in a table or a file, does not change its numbers.
RngStream rng_named(uint64_t seed, RngPurpose purpose, const char *name);
// Four independent 32-bit words.
void rng_words(RngStream stream, uint64_t index, uint32_t words[4]);
uint32_t rng_u32(RngStream stream, uint64_t index);
// Uniform in [0, 1), multiples of 2^-24.
float rng_uniform(RngStream stream, uint64_t index);
// Standard normal (Box and Muller), computed in double, one number an index.
double rng_normal(RngStream stream, uint64_t index);

#ifdef __cplusplus
}
#endif

#endif
