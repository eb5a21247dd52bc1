// A transformer block: a mixer, then a feed-forward, each as the half f of a residual stream x.
//   pre       x + f(norm(x))         (GPT-2, Llama)
//   post      norm(x + f(x))         (the first transformer, arXiv:1706.03762; BERT)
//   sandwich  x + norm(f(norm(x)))   (CogView, arXiv:2105.13290; Gemma 2, arXiv:2408.00118)
// While training, train.dropout drops what is added to x. Where norms come first, what leaves is a
// residual stream whose branch the next norm takes in (norm.h), and the model has one after its
// last block.
#ifndef MOETRAIN_MODEL_BLOCK_H
#define MOETRAIN_MODEL_BLOCK_H

#include "model/layer_kind.h"
#include "model/norm.h"

typedef enum Half { MIXER_HALF, FEED_FORWARD_HALF, HALVES } Half;

typedef struct BlockHalf {
    Norm norm;   // of what the layer reads; post: of the sum
    Norm second; // sandwich: of what the layer makes
    Tensor made; // sandwich: (N, D) f32, that
    Tensor x;    // post: (N, D) stored copy of the stream where that is narrower
} BlockHalf;

typedef struct Block {
    BlockHalf halves[HALVES];
    Layer mixer, feed_forward;
    // (N, D) stored, scratch: what a branch adds to the stream, or that branch's gradient; and the
    // stream's gradient as matrix products read it.
    Tensor branch, dout;
    Tensor dsum;   // (N, D) f32 scratch: the gradient before a norm, where one follows a layer
    int64_t layer; // its number (model_blocks): the stream of its dropout
} Block;

// A row of the list, by NormPlace.
typedef struct NormPlaceRule {
    Choice choice;
    bool second;      // a half has two norms
    bool final;       // the model has one after its last block
    bool norms_after; // of a layer
    void (*layout)(Block *block, Work *work, Half half, bool first, Arena *activations,
                   Arena *scratch);
    Residual (*forward)(Block *block, Work *work, Half half, Statistics *stats, Residual in,
                        const void *decoding);
    void (*backward)(Block *block, Work *work, Half half, Tensor dx);
} NormPlaceRule;
extern const NormPlaceRule NORM_PLACES[];
extern const ChoiceTable NORM_PLACE_CHOICES;

// Chooses the kinds that the configuration asks for; names of rows begin with param_scope. Needs
// block_free.
void block_declare(Block *block, Work *work, int64_t layer);
void block_free(Block *block); // legal on a zeroed block
// first: the stream that it takes in has no branch.
void block_layout(Block *block, Work *work, bool first, Statistics *stats, Arena *activations,
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
// N new tokens of a sequence from `position` on, with the block's cache. Returns y (N, D).
Residual block_decode(Block *block, Work *work, Statistics *stats, Residual in, Tensor cache,
                      int64_t position);
// After a step's update. Collective over world where its layers are.
void block_after_step(Block *block, Work *work, const Statistics *stats);

#endif
