// RUN/digests.jsonl: hashes of what chosen steps have computed, so that two runs which should be
// the same can be held side by side (worker/diff_runs.h). Of a step: the stream in front of every
// half of a block and what its parts make (model/stream_digests.h), window by window, or, where it
// has arrived at experts, for each of these or for each part of them, forward and backward; the
// gradients and statistics, summed over ranks; the parameters and the optimizer's states after the
// update, experts one by one. None of it depends on the number of ranks. A line a step; the folders
// are in the order in which a step computes them:
//
//   {"format":3,"step":2,"windows":16,"windows_a_shard":2,
//    "forward":{"embedding":["6f0c…",…],"layers.0.mixer":[…],"layers.0.mixer.in":[…],…,
//    "layers.0.feed_forward.dispatched":{"experts":["…",…]},"layers.0.feed_forward.returned":[…],…,
//    "loss":[…]},"backward":{…},"statistics":{"loss":["…"],"layers.0.tokens":["…"],…},
//    "gradients":{"layers.0.attention.qkv":["…"],"layers.0.moe.experts.up":["…",…],…},
//    "parameters":{…},"optimizer/m":{…},…}
//
// The hashes are checksums (kernels.h), taken on the device: a pass over the memory of each tensor.
#ifndef MOETRAIN_WORKER_WATCH_STEP_DIGESTS_H
#define MOETRAIN_WORKER_WATCH_STEP_DIGESTS_H

#include "model/stream_digests.h"
#include "worker/optimizer/optimizer.h"
#include "worker/run/row_file.h"

// Of the file. One more where places, their names or what is hashed of them change, so that files
// of two builds are not taken for two models.
enum { DIGESTS_FORMAT = 3 };

// Tensors of every parameter that has them, or of those with has[i].
typedef struct DigestedSet {
    const char *folder;
    const ParamTable *table;
    const bool *has; // NULL: all
    ParamSet set;
    int64_t first, count; // among the pieces
} DigestedSet;
enum { DIGESTED_SETS_MAX = 2 + OPTIMIZER_STATES_MAX };

// A zeroed one takes nothing.
typedef struct StepDigests {
    int64_t every; // log.digest_every; 0: none are taken
    Model *model;
    StreamDigests stream;
    DigestedSet sets[DIGESTED_SETS_MAX]; // gradients, parameters, the optimizer's states
    int set_count;
    int64_t pieces;             // of all sets: dense tensors, and experts or groups of them
    int64_t *places, *elements; // (pieces) in their runs
    Tensor sums, host_sums;     // (pieces, 2) i64
    Arena arena, host_arena;
    RowFile *rows; // rank 0
} StepDigests;

// The optimizer's sets must have their memory. every 0: takes nothing. Not collective.
void step_digests_open(StepDigests *digests, int64_t every, Model *model,
                       const Optimizer *optimizer);
void step_digests_close(StepDigests *digests); // legal on a zeroed struct
// Bytes on the host, at most. Not collective.
size_t step_digests_bytes(int64_t every, const Model *model, const Optimizer *optimizer);

// Opens the file, on rank 0: rows of steps after the last one done are taken out. Also after a
// roll-back. False with exit 5. Not collective.
bool step_digests_open_file(StepDigests *digests, const char *run_dir, int64_t last_step,
                            Error *err);

// Of the step that begins; nothing unless it is its turn. Not collective.
void step_digests_begin_step(StepDigests *digests, int64_t step);
// Its gradients are summed. Not collective.
void step_digests_take_gradients(StepDigests *digests);
// It is done, updates that wait for their rows included: takes the rest and writes the row.
// Collective over all ranks.
void step_digests_end_step(StepDigests *digests, int64_t step);
// Whether the step at work is one of those.
bool step_digests_due(const StepDigests *digests);

#endif
