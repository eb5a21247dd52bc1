// QK-clip (Kimi K2, arXiv:2507.20534, Algorithm 1): attention scores that grow without bound are
// cut at their root, after a step, by scaling the rows of the queries' and keys' projection.
//
//   S_h  the largest score of head h over all tokens of the step and all ranks, as the softmax
//        takes it but before a cap or slopes
//   of the query heads that share a key head, the largest S:  γ = min(1, τ / S)
//   W_q of all of them times γ^α, W_k times γ^(1-α), and their biases; α = 1/2
//
// so that the same tokens would then have no score above τ. The source clips each head by itself
// and knows no shared keys; that the heads of a group are clipped together is Megatron's rule
// (clip_qk). Moments stay as they are. A norm of queries and keys would undo it: refused.
#ifndef MOETRAIN_MODEL_QK_CLIP_H
#define MOETRAIN_MODEL_QK_CLIP_H

#include "model/linear.h"
#include "model/statistics.h"

// All zero without train.qk_clip, and where nothing is trained.
typedef struct QueryKeyClip {
    Tensor factors, host_factors; // ((H + KV) · d_head) f32: of each row of the projection
} QueryKeyClip;

// The largest score of each head (H) of a layer over the step: a column of that kind.
#define MAX_LOGIT_COLUMN "max_attention_logit"

void qk_clip_layout(QueryKeyClip *clip, Work *work, Arena *activations);
// After a step of which the layer has told its largest scores: scales the rows of `qkv`, a
// projection to queries, keys and values, and refreshes its copy. Not collective.
void qk_clip_after_step(const QueryKeyClip *clip, Work *work, const Statistics *stats,
                        int64_t layer, Linear qkv);
// The γ of a group of `heads` query heads.
double qk_clip_gamma(const double *largest, int64_t heads, double threshold);

#endif
