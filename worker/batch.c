#include "worker/batch.h"

#include "comm/comm.h"

static void layout(BatchBuffer *batch) {
    batch->tokens = arena_1d(&batch->arena, I32, batch->B * batch->T);
    batch->targets = arena_1d(&batch->arena, I32, batch->B * batch->T);
    batch->host_tokens = arena_mirror(&batch->host_arena, batch->tokens);
    batch->host_targets = arena_mirror(&batch->host_arena, batch->targets);
    batch->counts = arena_1d(&batch->host_arena, I64, batch->B);
}

void batch_open(BatchBuffer *batch, Device *dev, int64_t B, int64_t T, int64_t rank,
                int64_t ranks) {
    *batch = (BatchBuffer){.B = B, .T = T, .first = B * rank, .total = B * ranks, .dev = dev};
    arena_measure(&batch->arena, "batch", dev);
    arena_measure(&batch->host_arena, "batch", NULL);
    layout(batch);
    arena_allocate(&batch->arena);
    arena_allocate(&batch->host_arena);
    layout(batch);
}

size_t batch_bytes(int64_t B, int64_t T) {
    BatchBuffer batch = {.B = B, .T = T};
    arena_measure(&batch.arena, "batch", NULL);
    arena_measure(&batch.host_arena, "batch", NULL);
    layout(&batch);
    return batch.arena.peak_bytes + batch.host_arena.peak_bytes;
}

void batch_close(BatchBuffer *batch) {
    arena_free(&batch->arena);
    arena_free(&batch->host_arena);
}

// Ranks agree that all have read their share, and bring it to the device.
static bool deliver(BatchBuffer *batch, bool ok, Error *err) {
    if (!comm_agree(ok, err)) return false;
    device_upload(batch->dev, batch->tokens, batch->host_tokens);
    device_upload(batch->dev, batch->targets, batch->host_targets);
    return true;
}

bool batch_read_training(BatchBuffer *batch, DataFile *file, uint64_t seed, DataCursor cursor,
                         Error *err) {
    int32_t *tokens = tensor_i32(batch->host_tokens), *targets = tensor_i32(batch->host_targets);
    bool ok = true;
    for (int64_t b = 0; b < batch->B && ok; b++)
        ok = data_file_training_window(file, seed, cursor, batch->first + b, batch->T,
                                       tokens + b * batch->T, targets + b * batch->T, err);
    return deliver(batch, ok, err);
}

bool batch_read_evaluation(BatchBuffer *batch, DataFile *file, int64_t index, int64_t windows,
                           Error *err) {
    int32_t *tokens = tensor_i32(batch->host_tokens), *targets = tensor_i32(batch->host_targets);
    int64_t *counts = tensor_i64(batch->counts);
    bool ok = true;
    for (int64_t b = 0; b < batch->B && ok; b++) {
        int64_t window = index * batch->total + batch->first + b;
        ok = data_file_evaluation_window(file, window, batch->T, tokens + b * batch->T,
                                         targets + b * batch->T, &counts[b], err);
        if (window >= windows) counts[b] = 0;
    }
    return deliver(batch, ok, err);
}
