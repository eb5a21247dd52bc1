// One rank's share of a micro-batch: its shards' sequences, or its windows of a validation file, in
// order.
#ifndef MOETRAIN_WORKER_BATCH_H
#define MOETRAIN_WORKER_BATCH_H

#include "kernels/arena.h"
#include "worker/data_loader.h"

typedef struct BatchBuffer {
    Arena arena, host_arena;
    int64_t B, T;                     // sequences of this rank, tokens of each
    int64_t first;                    // number of this rank's first sequence within the micro-batch
    int64_t total;                    // sequences of the micro-batch over all ranks
    Tensor tokens, targets;           // (B·T) i32 on the device
    Tensor host_tokens, host_targets; // the host's mirrors
    Tensor counts; // (B) i64 on the host: targets of each window of a validation file
    Device *dev;
} BatchBuffer;

void batch_open(BatchBuffer *batch, Device *dev, int64_t B, int64_t T, int64_t rank, int64_t ranks);
// Bytes of the host's side. Not collective.
size_t batch_bytes(int64_t B, int64_t T);
void batch_close(BatchBuffer *batch); // legal on a zeroed struct

// The micro-batch that starts at the cursor. The error is the same on every rank. Collective over
// all ranks.
bool batch_read_training(BatchBuffer *batch, DataFile *file, uint64_t seed, DataCursor cursor,
                         Error *err);
// Windows [index · total, (index + 1) · total) of a validation file; from number `windows` on they
// are left empty. Collective over all ranks.
bool batch_read_evaluation(BatchBuffer *batch, DataFile *file, int64_t index, int64_t windows,
                           Error *err);

#endif
