#include "model/block.h"

#include <stdio.h>

#include "kernels/heartbeat.h"

void block_declare(Block *block, Work *work, int64_t layer) {
    char name[PARAM_NAME_BYTES];
    block->first_param = work->params->count;
    snprintf(name, sizeof name, "layers.%lld.attention_norm", (long long)layer);
    norm_declare(&block->attention_norm, work, name);
    attention_declare(&block->attention, work, layer);
    snprintf(name, sizeof name, "layers.%lld.ffn_norm", (long long)layer);
    norm_declare(&block->ffn_norm, work, name);
    block->slot.kind = slot_kind(work->config, layer);
    block->slot.kind->declare(&block->slot, work, layer);
    block->end_param = work->params->count;
}

void block_layout(Block *block, Work *work, int64_t layer, Arena *activations, Arena *scratch) {
    int64_t N = work->N, D = work->config->d_model;
    size_t mark = arena_mark(scratch);
    block->branch = arena_2d(scratch, work->storage, N, D);
    if (work->storage != F32) block->dout = arena_2d(scratch, work->storage, N, D);
    norm_layout(&block->attention_norm, work, layer > 0, activations, scratch);
    attention_layout(&block->attention, work, activations, scratch);
    norm_layout(&block->ffn_norm, work, true, activations, scratch);
    block->slot.kind->layout(&block->slot, work, activations, scratch);
    arena_release(scratch, mark);
}

void block_report(Block *block, Statistics *stats) {
    block->slot.kind->report(&block->slot, stats);
}

static Residual feed_forward_half(Block *block, Work *work, Statistics *stats, Tensor x) {
    Tensor h = norm_forward(&block->ffn_norm, work, (Residual){x, block->branch});
    block->slot.kind->forward(&block->slot, work, stats, block->branch, block->ffn_norm.out);
    return (Residual){h, block->branch};
}

Residual block_forward(Block *block, Work *work, Statistics *stats, Residual in) {
    watchdog_beat(NULL);
    Tensor x = norm_forward(&block->attention_norm, work, in);
    attention_layer_forward(&block->attention, work, block->branch, block->attention_norm.out);
    return feed_forward_half(block, work, stats, x);
}

void block_backward(Block *block, Work *work, Tensor dx) {
    watchdog_beat(NULL);
    block->slot.kind->backward(&block->slot, work, block->branch,
                               work_stored(work, block->dout, dx));
    norm_backward(&block->ffn_norm, work, dx, block->branch);
    attention_layer_backward(&block->attention, work, block->branch,
                             work_stored(work, block->dout, dx));
    norm_backward(&block->attention_norm, work, dx, block->branch);
}

Residual block_decode(Block *block, Work *work, Statistics *stats, Residual in, Tensor cache,
                      int64_t position) {
    Tensor x = norm_forward(&block->attention_norm, work, in);
    attention_layer_decode(&block->attention, work, block->branch, block->attention_norm.out, cache,
                           position);
    return feed_forward_half(block, work, stats, x);
}
