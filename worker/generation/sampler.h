// Choosing the next token from logits.
#ifndef MOETRAIN_WORKER_GENERATION_SAMPLER_H
#define MOETRAIN_WORKER_GENERATION_SAMPLER_H

#include <stdbool.h>

#include "kernels/rng.h"

typedef struct Sampling {
    double temperature; // 0: the largest logit, ties to the lower token
    int64_t top_k;      // 0: off
    double top_p;       // 1: off
    uint64_t seed;
    uint32_t sample; // of several texts from one prompt, from 0
} Sampling;

// Temperature, then top-k, then top-p (nucleus, arXiv:1904.09751) over the renormalised rest, then
// one draw with the counter `position`.
//   logits (V) f32   order (V) i32 scratch   probabilities (V) f64 scratch
int32_t sample_token(const float *logits, int64_t V, Sampling rule, int64_t position,
                     int32_t *order, double *probabilities);

// Makes tokens that have been seen less likely: their positive logits are divided by the penalty,
// negative ones multiplied (CTRL, arXiv:1909.05858; as transformers and llama.cpp have it). 1
// changes nothing.
//   logits (V) f32   seen (V)
void penalize_repetition(float *logits, int64_t V, const bool *seen, double penalty);

#endif
