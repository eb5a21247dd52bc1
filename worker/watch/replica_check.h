// What ranks hold alike is alike: parameters and the optimizer's states, compared over ranks by
// checksum every some steps and before each save (check_weight_hash_across_dp_replicas_interval of
// Megatron-LM). A flipped bit in one copy, or arithmetic that went wrong on one rank, otherwise
// trains on unseen, and gets into checkpoints.
//
// Dense parameters are compared over all ranks, experts over the ranks that hold the same ones. A
// rank sends two hashes of its checksums; only when they differ do the checksums themselves travel,
// to name the tensor and the rank that stands alone with it. Of two ranks nobody can say which one
// is right.
#ifndef MOETRAIN_WORKER_WATCH_REPLICA_CHECK_H
#define MOETRAIN_WORKER_WATCH_REPLICA_CHECK_H

#include "worker/optimizer/optimizer.h"

// A tensor of which other ranks have copies.
typedef struct Replica {
    const char *folder; // "parameters", "optimizer/m", as in checkpoints
    const Param *param;
} Replica;

// Some that lie in one run of a set: their checksums are taken by one op.
typedef struct ReplicaRun {
    ParamSet set;
    ParamRun run;
    int64_t first, count; // among the replicas
} ReplicaRun;

typedef struct ReplicaCheck {
    Model *model;
    Replica *replicas;
    int64_t count;
    int64_t *places, *elements; // of each in its run
    ReplicaRun *runs;
    int run_count;
    Arena arena, host_arena;
    Tensor sums, host_sums; // (count, 2) i64
    int64_t checked_step;   // the last whose state was found alike; -1: none
} ReplicaCheck;

// Lists what the ranks of `model` hold alike: nothing when there is one rank. The optimizer's sets
// must have their memory. A zeroed check compares nothing. Not collective.
void replica_check_open(ReplicaCheck *check, Model *model, const Optimizer *optimizer);
void replica_check_close(ReplicaCheck *check); // legal on a zeroed struct
// Bytes on the host, at most. Not collective.
size_t replica_check_bytes(const Model *model, const Optimizer *optimizer);

// Compares the state after `step`, unless that was done already. False with exit 6 where copies
// differ, with the same message on every rank: the tensor, and the rank and host that stand alone.
// Collective over all ranks.
bool replica_check_compare(ReplicaCheck *check, int64_t step, Error *err);

#endif
