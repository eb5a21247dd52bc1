#include "model/block.h"

#include <stdio.h>

void block_declare(Block *block, Work *work, int64_t layer, int64_t moe_layer) {
    char name[PARAM_NAME_BYTES];
    snprintf(name, sizeof name, "layers.%lld.attention_norm", (long long)layer);
    norm_declare(&block->attention_norm, work, name);
    attention_declare(&block->attention, work, layer);
    snprintf(name, sizeof name, "layers.%lld.ffn_norm", (long long)layer);
    norm_declare(&block->ffn_norm, work, name);
    block->slot.kind = slot_kind(work->config, layer);
    block->slot.kind->declare(&block->slot, work, layer, moe_layer);
}

void block_layout(Block *block, Work *work, Arena *activations, Arena *scratch) {
    int64_t N = work->N, D = work->config->d_model;
    size_t mark = arena_mark(scratch);
    block->branch = arena_2d(scratch, F32, N, D);
    norm_layout(&block->attention_norm, work, activations, scratch);
    attention_layout(&block->attention, work, activations, scratch);
    block->h = arena_2d(activations, F32, N, D);
    norm_layout(&block->ffn_norm, work, activations, scratch);
    block->slot.kind->layout(&block->slot, work, activations, scratch);
    block->y = arena_2d(activations, F32, N, D);
    arena_release(scratch, mark);
}

static Tensor feed_forward_half(Block *block, Work *work, Statistics *stats) {
    norm_forward(&block->ffn_norm, work, block->h);
    block->slot.kind->forward(&block->slot, work, stats, block->branch, block->ffn_norm.out);
    add(work->dev, block->y, block->h, block->branch);
    return block->y;
}

Tensor block_forward(Block *block, Work *work, Statistics *stats, Tensor x) {
    norm_forward(&block->attention_norm, work, x);
    attention_layer_forward(&block->attention, work, block->branch, block->attention_norm.out);
    add(work->dev, block->h, x, block->branch);
    return feed_forward_half(block, work, stats);
}

void block_backward(Block *block, Work *work, Tensor dx) {
    block->slot.kind->backward(&block->slot, work, block->branch, dx);
    norm_backward(&block->ffn_norm, work, dx, block->branch);
    attention_layer_backward(&block->attention, work, block->branch, dx);
    norm_backward(&block->attention_norm, work, dx, block->branch);
}

Tensor block_decode(Block *block, Work *work, Statistics *stats, Tensor x, Tensor cache,
                    int64_t position) {
    norm_forward(&block->attention_norm, work, x);
    attention_layer_decode(&block->attention, work, block->branch, block->attention_norm.out, cache,
                           position);
    add(work->dev, block->h, x, block->branch);
    return feed_forward_half(block, work, stats);
}
