// Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434): keys and values of all heads come
// from one narrow latent of a token, which is what is cached, beside one rotary key that all heads
// share.
//
//   c = norm(W_dkv x)   [k_h nope | v_h] = W_ukv c   k_h = [rope(W_kr x) | k_h nope]
//   q_h = [rope(q_h) | q_h nope] = W_uq norm(W_dq x), or W_q x with attention.q_rank 0
//
// A head's rotary channels come first, as in this program's other attention; DeepSeek's come last,
// which is another order of the rows of W_q or W_uq and gives the same scores.
#ifndef MOETRAIN_MODEL_LATENT_ATTENTION_H
#define MOETRAIN_MODEL_LATENT_ATTENTION_H

#include "model/layer_kind.h"

// Both passes are not collective.
extern const LayerKind LATENT_ATTENTION;

#endif
