// One pre-norm transformer block:
//   h = x + attention(norm(x));  y = h + feed_forward(norm(h))
#ifndef MOETRAIN_MODEL_BLOCK_H
#define MOETRAIN_MODEL_BLOCK_H

#include "model/attention.h"
#include "model/norm.h"
#include "model/slot.h"

typedef struct Block {
    Norm attention_norm, ffn_norm;
    Attention attention;
    Slot slot;
    Tensor h, y;   // (N, D) the residual stream after attention and after the feed-forward
    Tensor branch; // (N, D) scratch: what a branch adds to the stream, or that branch's gradient
} Block;

void block_declare(Block *block, Work *work, int64_t layer, int64_t moe_layer);
void block_layout(Block *block, Work *work, Arena *activations, Arena *scratch);
// Returns y (N, D); x must stay until the backward pass. Collective where the slot is.
Tensor block_forward(Block *block, Work *work, Statistics *stats, Tensor x);
// dx (N, D) comes as the gradient of y and leaves as the gradient of x. Collective where the slot is.
void block_backward(Block *block, Work *work, Tensor dx);
// One new token (N = 1) at `position`, with the layer's key/value cache. Returns y (1, D).
Tensor block_decode(Block *block, Work *work, Statistics *stats, Tensor x, Tensor cache,
                    int64_t position);

#endif
