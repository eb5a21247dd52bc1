// Shared experts: a dense feed-forward beside the routed experts that works on every token
// (DeepSeek-MoE, arXiv:2401.06066). Several of them are one of their summed width. With a gate it
// counts by g = sigmoid(x·w) of each token (Qwen2-MoE, arXiv:2407.10671):
//   out += ffn(x), or g · ffn(x)
// Or it is the residual feed-forward of PR-MoE (DeepSpeed-MoE, arXiv:2201.05596), with which what
// the routed experts have made is mixed by two learned coefficients of each token:
//   out = p · out + q · ffn(x), (p, q) = softmax(x W_cᵀ)
#ifndef MOETRAIN_MODEL_SHARED_EXPERTS_H
#define MOETRAIN_MODEL_SHARED_EXPERTS_H

#include "model/feed_forward.h"

// How they join what the routed experts have made.
typedef enum SharedJoin { SHARED_ADDED, SHARED_GATED, SHARED_MIXED } SharedJoin;

typedef struct SharedExperts {
    FeedForward ffn; // of width 0 where there are none
    SharedJoin join;
    Linear gate;         // weight (1, D), or (2, D) of coefficients
    Tensor x;            // (N, D) stored input, borrowed
    Tensor out;          // (N, D) stored: ffn(x); scratch where it is added
    Tensor routed;       // (N, D) stored, mixed: what the routed experts have made
    Tensor logits;       // (N, 1 or 2) f32
    struct {             // of the backward pass
        Tensor dx, dout; // (N, D) stored
        Tensor drouted;  // (N, D) stored, mixed
        Tensor dlogits;  // (N, 1 or 2) f32
        Tensor dlogits_stored;
    } scratch;
} SharedExperts;

// Their width in a layer; 0: none.
int64_t shared_experts_width(const MoeConfig *moe, MoeShape shape);
void shared_experts_declare(SharedExperts *shared, Work *work, MoeShape shape);
// The caller holds the mark of its scratch.
void shared_experts_layout(SharedExperts *shared, Work *work, Arena *activations, Arena *scratch);
void shared_experts_bound(const ModelConfig *config, MoeShape shape, LayerBound *bound);
void shared_experts_cost(const SharedExperts *shared, const Work *work, LayerCost *cost);
// A pass is in two parts, so that the first, nearly all of the work, can be done while the routed
// experts' rows travel: what depends on x or dout alone, and what is added to out or dx. Nothing
// happens without shared experts. Not collective.
//   out, dx, x, dout (N, D) stored
void shared_experts_forward(SharedExperts *shared, Work *work, Tensor x);
// Where what the routed experts make goes: `out`, unless it is mixed into that.
Tensor shared_experts_routed(const SharedExperts *shared, Tensor out);
void shared_experts_join(SharedExperts *shared, Work *work, Tensor out);
// The gradient of what the routed experts have made; before the next.
Tensor shared_experts_routed_backward(SharedExperts *shared, Work *work, Tensor dout);
void shared_experts_backward(SharedExperts *shared, Work *work, Tensor dout);
void shared_experts_add_backward(SharedExperts *shared, Work *work, Tensor dx);

#endif
