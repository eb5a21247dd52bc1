// One pre-norm transformer block:
//   h = x + mixer(norm(x));  y = h + feed_forward(norm(h))
// While training, train.dropout drops what mixer and feed_forward put out.
// y leaves as a residual stream whose branch the next norm takes in (norm.h).
#ifndef MOETRAIN_MODEL_BLOCK_H
#define MOETRAIN_MODEL_BLOCK_H

#include "model/layer_kind.h"
#include "model/norm.h"

typedef struct Block {
    Norm mixer_norm, ffn_norm;
    Layer mixer, feed_forward;
    // (N, D) stored, scratch: what a branch adds to the stream, or that branch's gradient; and the
    // stream's gradient as matrix products read it.
    Tensor branch, dout;
    int64_t layer; // of the model: the stream of its dropout
} Block;

// Chooses the kinds that the configuration asks for. Needs block_free.
void block_declare(Block *block, Work *work, int64_t layer);
void block_free(Block *block); // legal on a zeroed block
void block_layout(Block *block, Work *work, int64_t layer, Statistics *stats, Arena *activations,
                  Arena *scratch);
// What the two layers say; they are described in layer_kind.h.
bool block_check(const Block *block, const Work *work, Error *err);
void block_cost(const Block *block, const Work *work, LayerCost *cost);
size_t block_bytes(const Block *block); // of the host's memory
// Width of the cache that block_decode needs; 0: none.
int64_t block_cache_width(const Block *block, const Work *work);
// Returns y; `in` must stay until the backward pass where it has no branch. The branch of y lies
// in scratch: it is valid until the next block's norm has added it to the stream. Collective where
// its layers are.
Residual block_forward(Block *block, Work *work, Statistics *stats, Residual in);
// dx (N, D) f32 comes as the gradient of y and leaves as the gradient of x. Collective likewise.
void block_backward(Block *block, Work *work, Tensor dx);
// One new token (N = 1) at `position`, with the block's cache. Returns y (1, D).
Residual block_decode(Block *block, Work *work, Statistics *stats, Residual in, Tensor cache,
                      int64_t position);
void block_after_step(Block *block, Work *work, const Statistics *stats);

#endif
