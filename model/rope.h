// The angles of RoPE (arXiv:2104.09864), a pair of channels each, and their extensions to contexts
// longer than those that a model was trained at:
//   linear   positions are divided by the factor (arXiv:2306.15595)
//   ntk      the base grows, so that the slowest pair alone is slowed by the whole factor
//   yarn     pairs that turn often over the original context stay, those that turn seldom are
//            slowed by the factor, those between are mixed; queries and keys grow a little
//            (arXiv:2309.00071)
//   llama3   the same idea, mixed by how often a pair turns instead of by its number, and lengths
//            stay (Llama 3.1, arXiv:2407.21783; apply_scaling of Meta's llama-models)
// All in double. Not collective.
#ifndef MOETRAIN_MODEL_ROPE_H
#define MOETRAIN_MODEL_ROPE_H

#include "model/model_config.h"

// Pairs of a head of so many channels that are turned: of the first channels, as GPT-NeoX.
int64_t rope_pairs(const RopeConfig *config, int64_t d_head);
// By how much pair i of `pairs` turns from one position to the next, in radians.
double rope_frequency(const RopeConfig *config, double theta, int64_t i, int64_t pairs);
// What a turned pair's length is multiplied by.
double rope_length(const RopeConfig *config);
// The default of attention.rope_beta_fast.
double rope_default_beta_fast(const RopeConfig *config);
// Whether the scaling tells pairs apart by their turns over the original context.
bool rope_counts_turns(const RopeConfig *config);
// The default of attention.rope_attention_factor.
double rope_default_attention_factor(const RopeConfig *config);

#endif
