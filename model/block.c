#include "model/block.h"

#include <stdio.h>
#include <stdlib.h>

#include "kernels/heartbeat.h"
#include "model/dropout.h"

static void declare_layer(Layer *layer, const LayerKind *kind, Work *work, int64_t number) {
    *layer = (Layer){kind, calloc(1, kind->state_bytes)};
    CHECK_MEMORY(layer->state, "no memory for layer %lld", (long long)number);
    kind->declare(layer->state, work, number);
}

void block_declare(Block *block, Work *work, int64_t layer) {
    char name[PARAM_NAME_BYTES];
    block->layer = layer;
    snprintf(name, sizeof name, "layers.%lld.attention_norm", (long long)layer);
    norm_declare(&block->mixer_norm, work, name);
    declare_layer(&block->mixer, MIXERS[model_mixer(work->config, layer)].kind, work, layer);
    snprintf(name, sizeof name, "layers.%lld.ffn_norm", (long long)layer);
    norm_declare(&block->ffn_norm, work, name);
    declare_layer(&block->feed_forward, FEED_FORWARDS[model_feed_forward(work->config, layer)].kind,
                  work, layer);
}

void block_free(Block *block) {
    free(block->mixer.state);
    free(block->feed_forward.state);
}

static void layout_layer(Layer *layer, Work *work, Statistics *stats, Arena *activations,
                         Arena *scratch) {
    layer->kind->layout(layer->state, work, stats, activations, scratch);
}

void block_layout(Block *block, Work *work, int64_t layer, Statistics *stats, Arena *activations,
                  Arena *scratch) {
    int64_t N = work->shape.N, D = work->config->d_model;
    size_t mark = arena_mark(scratch);
    block->branch = arena_2d(scratch, work->storage, N, D);
    if (work->storage != F32 || dropout_is_due(work, work->config->dropout))
        block->dout = arena_2d(scratch, work->storage, N, D);
    norm_layout(&block->mixer_norm, work, layer > 0, activations, scratch);
    layout_layer(&block->mixer, work, stats, activations, scratch);
    norm_layout(&block->ffn_norm, work, true, activations, scratch);
    layout_layer(&block->feed_forward, work, stats, activations, scratch);
    arena_release(scratch, mark);
}

static bool check_layer(const Layer *layer, const Work *work, Error *err) {
    return !layer->kind->check || layer->kind->check(layer->state, work, err);
}

bool block_check(const Block *block, const Work *work, Error *err) {
    return check_layer(&block->mixer, work, err) && check_layer(&block->feed_forward, work, err);
}

void block_cost(const Block *block, const Work *work, LayerCost *cost) {
    block->mixer.kind->cost(block->mixer.state, work, cost);
    block->feed_forward.kind->cost(block->feed_forward.state, work, cost);
}

size_t block_bytes(const Block *block) {
    return sizeof *block + block->mixer.kind->state_bytes + block->feed_forward.kind->state_bytes;
}

int64_t block_cache_width(const Block *block, const Work *work) {
    const Layer *mixer = &block->mixer;
    return mixer->kind->cache_width ? mixer->kind->cache_width(mixer->state, work) : 0;
}

static void layer_forward(Layer *layer, Work *work, Statistics *stats, Tensor out, Tensor x) {
    layer->kind->forward(layer->state, work, stats, out, x);
}
static void layer_backward(Layer *layer, Work *work, Tensor dx, Tensor dout) {
    layer->kind->backward(layer->state, work, dx, dout);
}

// The two halves of a block, as their dropout counts them.
typedef enum Half { MIXER_HALF, FEED_FORWARD_HALF } Half;

// The branch that a half has made, as it is added to the stream.
static void drop_branch(Block *block, Work *work, Half half) {
    if (dropout_is_due(work, work->config->dropout))
        drop_tokens(work, block->branch, block->branch, work->config->dropout, RNG_DROPOUT_RESIDUAL,
                    2 * block->layer + half);
}
// The gradient of that branch, stored, from the stream's.
static Tensor branch_gradient(Block *block, Work *work, Tensor dx, Half half) {
    if (!dropout_is_due(work, work->config->dropout)) return work_stored(work, block->dout, dx);
    drop_tokens(work, block->dout, dx, work->config->dropout, RNG_DROPOUT_RESIDUAL,
                2 * block->layer + half);
    return block->dout;
}

static Residual feed_forward_half(Block *block, Work *work, Statistics *stats, Tensor x) {
    Tensor h = norm_forward(&block->ffn_norm, work, (Residual){x, block->branch});
    layer_forward(&block->feed_forward, work, stats, block->branch, block->ffn_norm.out);
    drop_branch(block, work, FEED_FORWARD_HALF);
    return (Residual){h, block->branch};
}

Residual block_forward(Block *block, Work *work, Statistics *stats, Residual in) {
    watchdog_beat(NULL);
    Tensor x = norm_forward(&block->mixer_norm, work, in);
    layer_forward(&block->mixer, work, stats, block->branch, block->mixer_norm.out);
    drop_branch(block, work, MIXER_HALF);
    return feed_forward_half(block, work, stats, x);
}

void block_backward(Block *block, Work *work, Tensor dx) {
    watchdog_beat(NULL);
    layer_backward(&block->feed_forward, work, block->branch,
                   branch_gradient(block, work, dx, FEED_FORWARD_HALF));
    norm_backward(&block->ffn_norm, work, dx, block->branch);
    layer_backward(&block->mixer, work, block->branch,
                   branch_gradient(block, work, dx, MIXER_HALF));
    norm_backward(&block->mixer_norm, work, dx, block->branch);
}

Residual block_decode(Block *block, Work *work, Statistics *stats, Residual in, Tensor cache,
                      int64_t position) {
    Tensor x = norm_forward(&block->mixer_norm, work, in);
    Layer *mixer = &block->mixer;
    if (mixer->kind->decode)
        mixer->kind->decode(mixer->state, work, block->branch, block->mixer_norm.out, cache,
                            position);
    else
        layer_forward(mixer, work, stats, block->branch, block->mixer_norm.out);
    return feed_forward_half(block, work, stats, x);
}

void block_after_step(Block *block, Work *work, const Statistics *stats) {
    Layer *layers[] = {&block->mixer, &block->feed_forward};
    for (int i = 0; i < 2; i++)
        if (layers[i]->kind->after_step) layers[i]->kind->after_step(layers[i]->state, work, stats);
}
