// Choosing the next token from logits.
#ifndef MOETRAIN_WORKER_SAMPLER_H
#define MOETRAIN_WORKER_SAMPLER_H

#include "kernels/rng.h"

// Temperature, then top-k, then top-p (nucleus, arXiv:1904.09751) over the renormalised rest, then
// one draw with the counter `position`. temperature 0: the largest logit, ties to the lower token.
// top_k 0 and top_p 1 switch those off.
//   logits (V) f32   order (V) i32 scratch   probabilities (V) f64 scratch
int32_t sample_token(const float *logits, int64_t V, double temperature, int64_t top_k,
                     double top_p, uint64_t seed, int64_t position, int32_t *order,
                     double *probabilities);

#endif
