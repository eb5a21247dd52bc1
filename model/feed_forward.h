// Dense feed-forward: y = act(x W₁ᵀ) W₂ᵀ with SwiGLU (arXiv:2002.05202; W₁ holds gate and up) or
// ReLU.
#ifndef MOETRAIN_MODEL_FEED_FORWARD_H
#define MOETRAIN_MODEL_FEED_FORWARD_H

#include "model/work.h"

typedef struct FeedForward {
    int gate_up, down; // parameters (2F or F, D) and (D, F)
    Tensor x;          // (N, D) input, borrowed
    Tensor hidden;     // (N, 2F or F) before the activation; becomes its own gradient
    Tensor activated;  // (N, F) scratch, recomputed in the backward pass
    Tensor dactivated; // (N, F) scratch
} FeedForward;

void feed_forward_declare(FeedForward *ffn, Work *work, int64_t layer);
void feed_forward_layout(FeedForward *ffn, Work *work, Arena *activations, Arena *scratch);
//   out, x (N, D); x must stay until the backward pass
void feed_forward_forward(FeedForward *ffn, Work *work, Tensor out, Tensor x);
//   dx, dout (N, D); dx overwritten
void feed_forward_backward(FeedForward *ffn, Work *work, Tensor dx, Tensor dout);

#endif
