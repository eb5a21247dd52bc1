#include "worker/batch.h"

#include "comm/comm.h"

static void layout(BatchBuffer *batch) {
    batch->tokens = arena_1d(&batch->arena, I32, batch->B * batch->T);
    batch->targets = arena_1d(&batch->arena, I32, batch->B * batch->T);
}

void batch_open(BatchBuffer *batch, int64_t B, int64_t T, int64_t rank, int64_t ranks) {
    *batch = (BatchBuffer){.B = B, .T = T, .first = B * rank, .total = B * ranks};
    arena_measure(&batch->arena, "batch");
    layout(batch);
    arena_allocate(&batch->arena);
    layout(batch);
}

void batch_close(BatchBuffer *batch) {
    arena_free(&batch->arena);
}

bool batch_read_training(BatchBuffer *batch, DataFile *file, uint64_t seed, DataCursor cursor,
                         Error *err) {
    int32_t *tokens = tensor_i32(batch->tokens), *targets = tensor_i32(batch->targets);
    bool ok = true;
    for (int64_t b = 0; b < batch->B && ok; b++)
        ok = data_file_training_window(file, seed, cursor, batch->first + b, batch->T,
                                       tokens + b * batch->T, targets + b * batch->T, err);
    return comm_agree(ok, err);
}

bool batch_read_in_order(BatchBuffer *batch, DataFile *file, int64_t index, Error *err) {
    int32_t *tokens = tensor_i32(batch->tokens), *targets = tensor_i32(batch->targets);
    bool ok = true;
    for (int64_t b = 0; b < batch->B && ok; b++)
        ok = data_file_window(file, index * batch->total + batch->first + b, batch->T,
                              tokens + b * batch->T, targets + b * batch->T, err);
    return comm_agree(ok, err);
}
