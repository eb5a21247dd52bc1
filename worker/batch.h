// One rank's share of a micro-batch: its shards' sequences, in order.
#ifndef MOETRAIN_WORKER_BATCH_H
#define MOETRAIN_WORKER_BATCH_H

#include "kernels/arena.h"
#include "worker/data_loader.h"

typedef struct BatchBuffer {
    Arena arena, host_arena;
    int64_t B, T;           // sequences of this rank, tokens of each
    int64_t first;          // number of this rank's first sequence within the micro-batch
    int64_t total;          // sequences of the micro-batch over all ranks
    Tensor tokens, targets;           // (B·T) i32 on the device
    Tensor host_tokens, host_targets; // the host's mirrors
    Device *dev;
} BatchBuffer;

void batch_open(BatchBuffer *batch, Device *dev, int64_t B, int64_t T, int64_t rank, int64_t ranks);
void batch_close(BatchBuffer *batch); // legal on a zeroed struct

// The micro-batch that starts at the cursor. The error is the same on every rank. Collective over all ranks.
bool batch_read_training(BatchBuffer *batch, DataFile *file, uint64_t seed, DataCursor cursor,
                         Error *err);
// The micro-batch of windows [index · total, (index + 1) · total) in file order. Collective over all ranks.
bool batch_read_in_order(BatchBuffer *batch, DataFile *file, int64_t index, Error *err);

#endif
