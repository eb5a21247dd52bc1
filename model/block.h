// One pre-norm transformer block:
//   h = x + attention(norm(x));  y = h + feed_forward(norm(h))
// y leaves as a residual stream whose branch the next norm takes in (norm.h).
#ifndef MOETRAIN_MODEL_BLOCK_H
#define MOETRAIN_MODEL_BLOCK_H

#include "model/attention.h"
#include "model/norm.h"
#include "model/slot.h"

typedef struct Block {
    Norm attention_norm, ffn_norm;
    Attention attention;
    Slot slot;
    int first_param, end_param; // its rows of the parameter table
    // (N, D) stored, scratch: what a branch adds to the stream, or that branch's gradient; and the
    // stream's gradient as matrix products read it.
    Tensor branch, dout;
} Block;

void block_declare(Block *block, Work *work, int64_t layer);
void block_layout(Block *block, Work *work, int64_t layer, Arena *activations, Arena *scratch);
// Asks for the columns of its layers' statistics.
void block_report(Block *block, Statistics *stats);
// Returns y; `in` must stay until the backward pass where it has no branch. The branch returned
// lives until the next block's norm has taken it in. Collective where the slot is.
Residual block_forward(Block *block, Work *work, Statistics *stats, Residual in);
// dx (N, D) f32 comes as the gradient of y and leaves as the gradient of x. Collective where the
// slot is.
void block_backward(Block *block, Work *work, Tensor dx);
// One new token (N = 1) at `position`, with the layer's key/value cache. Returns y (1, D).
Residual block_decode(Block *block, Work *work, Statistics *stats, Residual in, Tensor cache,
                      int64_t position);

#endif
