#include "worker/data/batch.h"

#include "comm/collectives.h"
#include "comm/comm.h"
#include "worker/data/tokens_ahead.h"

static void layout(BatchBuffer *batch) {
    batch->tokens = arena_1d(&batch->arena, I32, batch->B * batch->T);
    batch->targets = arena_1d(&batch->arena, I32, batch->B * batch->T);
    batch->host_tokens = arena_mirror(&batch->host_arena, batch->tokens);
    batch->host_targets = arena_mirror(&batch->host_arena, batch->targets);
    if (batch->documents) {
        batch->positions = arena_1d(&batch->arena, I32, batch->B * batch->T);
        batch->host_positions = arena_mirror(&batch->host_arena, batch->positions);
    }
    int64_t ahead = batch->modules * batch->B * batch->T;
    batch->ahead_tokens = arena_1d(&batch->arena, I32, ahead);
    batch->ahead_targets = arena_1d(&batch->arena, I32, ahead);
    batch->host_ahead_tokens = arena_mirror(&batch->host_arena, batch->ahead_tokens);
    batch->host_ahead_targets = arena_mirror(&batch->host_arena, batch->ahead_targets);
    batch->sources = arena_1d(&batch->host_arena, I32, batch->B);
    batch->firsts = arena_1d(&batch->host_arena, I64, batch->B);
    batch->counts = arena_1d(&batch->host_arena, I64, batch->B);
}

void batch_open(BatchBuffer *batch, Device *dev, const RankShape *shape, bool documents,
                int64_t modules) {
    int64_t of_shard = shape->B / shape->shards;
    *batch = (BatchBuffer){.B = shape->B,
                           .T = shape->T,
                           .first = of_shard * shape->first_shard,
                           .total = of_shard * shape->all_shards,
                           .documents = documents,
                           .modules = modules,
                           .dev = dev};
    arena_measure(&batch->arena, "batch", dev);
    arena_measure(&batch->host_arena, "batch", NULL);
    layout(batch);
    arena_allocate(&batch->arena);
    arena_allocate(&batch->host_arena);
    layout(batch);
}

size_t batch_bytes(int64_t B, int64_t T, bool documents, int64_t modules) {
    BatchBuffer batch = {.B = B, .T = T, .documents = documents, .modules = modules};
    arena_measure(&batch.arena, "batch", NULL);
    arena_measure(&batch.host_arena, "batch", NULL);
    layout(&batch);
    return batch.arena.peak_bytes + batch.host_arena.peak_bytes;
}

void batch_close(BatchBuffer *batch) {
    arena_free(&batch->arena);
    arena_free(&batch->host_arena);
}

void batch_upload(BatchBuffer *batch) {
    device_upload(batch->dev, batch->tokens, batch->host_tokens);
    device_upload(batch->dev, batch->targets, batch->host_targets);
    if (batch->documents) device_upload(batch->dev, batch->positions, batch->host_positions);
    if (batch->modules == 0) return;
    device_upload(batch->dev, batch->ahead_tokens, batch->host_ahead_tokens);
    device_upload(batch->dev, batch->ahead_targets, batch->host_ahead_targets);
}

// Ranks agree that all have read their share, and bring it to the device.
static bool deliver(BatchBuffer *batch, bool ok, Error *err) {
    if (!comm_agree(ok, err)) return false;
    batch_upload(batch);
    return true;
}

// Where window b's positions go, or NULL.
static int32_t *positions_of(const BatchBuffer *batch, int64_t b) {
    return batch->documents ? tensor_i32(batch->host_positions) + b * batch->T : NULL;
}

static bool read_windows(BatchBuffer *batch, const DataMix *mix, DataCursor cursor, Error *err) {
    int32_t *tokens = tensor_i32(batch->host_tokens), *targets = tensor_i32(batch->host_targets);
    bool ok = true;
    int64_t number;
    for (int64_t b = 0; b < batch->B && mix->count > 1; b++)
        tensor_i32(batch->sources)[b] = data_mix_source(mix, cursor, batch->first + b, &number);
    for (int64_t b = 0; b < batch->B && ok; b++) {
        ok = data_mix_window(mix, cursor, batch->first + b, tokens + b * batch->T,
                             targets + b * batch->T, positions_of(batch, b), err);
        DataCursor at = data_mix_advance(mix, cursor, batch->first + b);
        if (ok && batch->masks.share > 0)
            mask_training_tokens(&batch->masks, (uint32_t)at.epoch, at.index * batch->T, batch->T,
                                 tokens + b * batch->T, targets + b * batch->T);
    }
    return ok;
}

bool batch_read_training(BatchBuffer *batch, const DataMix *mix, DataCursor cursor, Error *err) {
    bool ok = read_windows(batch, mix, cursor, err);
    if (ok)
        tokens_ahead(batch->modules, batch->B, batch->T, tensor_i32(batch->host_targets),
                     positions_of(batch, 0), tensor_i32(batch->host_ahead_tokens),
                     tensor_i32(batch->host_ahead_targets));
    return deliver(batch, ok, err);
}

bool batch_count_targets(BatchBuffer *batch, const DataMix *mix, DataCursor cursor,
                         int64_t micro_batches, int64_t *targets, Error *err) {
    *targets = 0;
    if (!batch_leaves_out_targets(batch)) return true;
    bool ok = true;
    for (int64_t m = 0; ok && m < micro_batches; m++) {
        ok = read_windows(batch, mix, cursor, err);
        for (int64_t i = 0; ok && i < batch->B * batch->T; i++)
            *targets += tensor_i32(batch->host_targets)[i] != NO_TARGET;
        cursor = data_mix_advance(mix, cursor, batch->total);
    }
    if (!comm_agree(ok, err)) return false;
    all_reduce_sum(comm_world(), tensor_1d(targets, I64, 1), REDUCE_ANY_ORDER, (Tensor){0},
                   TRAFFIC_OTHER);
    return true;
}

// Masks the window's own tokens; its first is number `begin` of the file.
static void mask_window(BatchBuffer *batch, int64_t b, int64_t begin) {
    int32_t *tokens = tensor_i32(batch->host_tokens) + b * batch->T;
    int32_t *targets = tensor_i32(batch->host_targets) + b * batch->T;
    int64_t first = tensor_i64(batch->firsts)[b], count = tensor_i64(batch->counts)[b];
    mask_evaluation_tokens(&batch->masks, begin + first, count - first, tokens + first,
                           targets + first);
}

bool batch_read_evaluation(BatchBuffer *batch, DataFile *file, int64_t stride, int64_t index,
                           int64_t windows, Error *err) {
    int32_t *tokens = tensor_i32(batch->host_tokens), *targets = tensor_i32(batch->host_targets);
    int64_t *firsts = tensor_i64(batch->firsts), *counts = tensor_i64(batch->counts);
    bool ok = true;
    for (int64_t b = 0; b < batch->B && ok; b++) {
        int64_t window = index * batch->total + batch->first + b;
        ok = data_file_evaluation_window(file, window, batch->T, stride, tokens + b * batch->T,
                                         targets + b * batch->T, positions_of(batch, b), &firsts[b],
                                         &counts[b], err);
        if (ok && batch->masks.share > 0) mask_window(batch, b, window * stride);
        if (window >= windows) firsts[b] = counts[b] = 0;
    }
    return deliver(batch, ok, err);
}
