// Dense feed-forward: y = act(x W₁ᵀ + b₁) W₂ᵀ + b₂; of a gated activation W₁ holds gate and up
// (arXiv:2002.05202). The biases b are optional.
#ifndef MOETRAIN_MODEL_FEED_FORWARD_H
#define MOETRAIN_MODEL_FEED_FORWARD_H

#include "model/layer_kind.h"
#include "model/linear.h"

// One of any width, as the layer kind and shared experts have it.
typedef struct FeedForward {
    int64_t d_ff;         // F
    Linear gate_up, down; // weights (2F or F, D) and (D, F)
    Tensor x;             // (N, D) input, borrowed
    Tensor hidden;        // (N, 2F or F) before the activation; becomes its own gradient
    Tensor activated;     // (N, F) scratch, recomputed in the backward pass
    Tensor dactivated;    // (N, F) scratch
} FeedForward;

// Rows NAME.gate_up and NAME.down.
void feed_forward_declare(FeedForward *ffn, Work *work, int64_t d_ff, const char *name);
// The caller holds the mark of its scratch.
void feed_forward_layout(FeedForward *ffn, Work *work, Arena *activations, Arena *scratch);
void feed_forward_cost(const FeedForward *ffn, const Work *work, LayerCost *cost);
// As forward and backward of a LayerKind.
void feed_forward_forward(FeedForward *ffn, Work *work, Tensor out, Tensor x);
void feed_forward_backward(FeedForward *ffn, Work *work, Tensor dx, Tensor dout);

extern const LayerKind DENSE_FEED_FORWARD;

#endif
