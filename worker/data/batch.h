// One rank's share of a micro-batch: its shards' sequences, or its windows of a validation file, in
// order.
#ifndef MOETRAIN_WORKER_DATA_BATCH_H
#define MOETRAIN_WORKER_DATA_BATCH_H

#include "model/work.h"
#include "worker/data/data_mix.h"
#include "worker/data/masked_tokens.h"

typedef struct BatchBuffer {
    Arena arena, host_arena;
    int64_t B, T;                     // sequences of this rank, tokens of each
    int64_t first;                    // number of this rank's first sequence within the micro-batch
    int64_t total;                    // sequences of the micro-batch over all ranks
    Tensor tokens, targets;           // (B·T) i32 on the device
    Tensor host_tokens, host_targets; // the host's mirrors
    // (B·T) i32 of documents, as model_set_documents has them, and the mirror; data NULL: none
    Tensor positions, host_positions;
    // (modules · B·T) i32 of multi-token prediction, as tokens_ahead makes them of training windows
    int64_t modules;
    Tensor ahead_tokens, ahead_targets, host_ahead_tokens, host_ahead_targets;
    Tensor sources; // (B) i32 on the host: of each training window, where there are several
    // (B) i64 on the host: the targets [first, count) of a window of a validation file are its own
    Tensor firsts, counts;
    bool documents;
    MaskRule masks; // set by the caller, of a masked model
    Device *dev;
} BatchBuffer;

// Of the model's share of a micro-batch. documents: whether windows are read with the places of
// tokens in documents. modules: of multi-token prediction, in training.
void batch_open(BatchBuffer *batch, Device *dev, const RankShape *shape, bool documents,
                int64_t modules);
// Bytes of the host's side. Not collective.
size_t batch_bytes(int64_t B, int64_t T, bool documents, int64_t modules);
void batch_close(BatchBuffer *batch); // legal on a zeroed struct

// The micro-batch that starts at the cursor. The error is the same on every rank. Collective over
// all ranks.
bool batch_read_training(BatchBuffer *batch, const DataMix *mix, DataCursor cursor, Error *err);
// Whether some tokens have no target: the last of documents, and those that are not masked.
static inline bool batch_leaves_out_targets(const BatchBuffer *batch) {
    return batch->documents || batch->masks.share > 0;
}
// How many targets the micro-batches of a step have that starts at the cursor, over all ranks; 0
// also where none is left out. The batch is used up. Collective over all ranks.
bool batch_count_targets(BatchBuffer *batch, const DataMix *mix, DataCursor cursor,
                         int64_t micro_batches, int64_t *targets, Error *err);
// Windows [index · total, (index + 1) · total) of a validation file; from number `windows` on they
// are left empty. Collective over all ranks.
bool batch_read_evaluation(BatchBuffer *batch, DataFile *file, int64_t stride, int64_t index,
                           int64_t windows, Error *err);
// Brings what the host's mirrors hold to the device. Not collective.
void batch_upload(BatchBuffer *batch);

#endif
