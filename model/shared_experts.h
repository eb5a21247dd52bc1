// Shared experts: a dense feed-forward beside the routed experts that works on every token
// (DeepSeek-MoE, arXiv:2401.06066). Several of them are one of their summed width. With a gate it
// counts by g = sigmoid(x·w) of each token (Qwen2-MoE, arXiv:2407.10671):
//   out += ffn(x), or g · ffn(x)
#ifndef MOETRAIN_MODEL_SHARED_EXPERTS_H
#define MOETRAIN_MODEL_SHARED_EXPERTS_H

#include "model/feed_forward.h"

typedef struct SharedExperts {
    FeedForward ffn; // of width 0 where there are none
    bool has_gate;
    Linear gate;         // weight (1, D)
    Tensor x;            // (N, D) stored input, borrowed
    Tensor out;          // (N, D) stored: ffn(x); scratch without a gate
    Tensor logits;       // (N, 1) f32
    struct {             // of the backward pass
        Tensor dx, dout; // (N, D) stored
        Tensor dlogits;  // (N, 1) f32
        Tensor dlogits_stored;
    } scratch;
} SharedExperts;

// Their width in a layer whose experts have width d_ff; 0: none.
int64_t shared_experts_width(const MoeConfig *config, int64_t d_ff);
void shared_experts_declare(SharedExperts *shared, Work *work, int64_t layer, int64_t width);
// The caller holds the mark of its scratch.
void shared_experts_layout(SharedExperts *shared, Work *work, Arena *activations, Arena *scratch);
void shared_experts_bound(const ModelConfig *config, int64_t width, LayerBound *bound);
void shared_experts_cost(const SharedExperts *shared, const Work *work, LayerCost *cost);
// A pass is in two parts, so that the first, nearly all of the work, can be done while the routed
// experts' rows travel: what depends on x or dout alone, and what is added to out or dx. Nothing
// happens without shared experts. Not collective.
//   out, dx, x, dout (N, D) stored
void shared_experts_forward(SharedExperts *shared, Work *work, Tensor x);
void shared_experts_add(SharedExperts *shared, Work *work, Tensor out);
void shared_experts_backward(SharedExperts *shared, Work *work, Tensor dout);
void shared_experts_add_backward(SharedExperts *shared, Work *work, Tensor dx);

#endif
