// Whether a step's result is the machine's fault: it is computed once more from the same tokens,
// and the bits of loss and gradients are compared before they change anything (Megatron-LM's rerun
// state machine; "Understanding Silent Data Corruption in LLM Training", ACL 2025). The same
// configuration gives the same bits, so that a difference is the hardware's, or a bug; the same
// result again is the data's.
//
// Each rank keeps checksums of what it computed alone: its shards' statistics, and its gradients
// before they are summed over ranks. Those that changed name the rank. Tokens travel to experts of
// other ranks and back: where one rank computes something wrong, others' results can change too.
#ifndef MOETRAIN_WORKER_WATCH_RECHECK_H
#define MOETRAIN_WORKER_WATCH_RECHECK_H

#include "model/model.h"
#include "worker/train_config.h"

typedef struct Recheck {
    RecheckKind kind;
    int64_t every;
    Model *model;
    int64_t slots;
    Arena arena, host_arena;
    Tensor sums;          // (slots, 2) i64: gradients by bucket (gradients.h), then the statistics
    Tensor found, before; // on the host: of this pass over the step, and of the first
    double loss, norm;    // of the first pass
} Recheck;

// Takes nothing for RECHECK_OFF. Not collective.
void recheck_open(Recheck *recheck, Model *model, const TrainConfig *config);
void recheck_close(Recheck *recheck);                                // legal on a zeroed struct
size_t recheck_bytes(const Model *model, const TrainConfig *config); // on the host, at most

// Before each pass over a step: from here on gradients are added to the checksums. Every step may
// turn out to be suspicious.
void recheck_begin(Recheck *recheck);
// After its last micro-batch, before statistics_reduce.
void recheck_add_statistics(Recheck *recheck);
// After the first pass: whether there is to be another one, since any rank finds the step
// suspicious or it is its turn; then the first is kept. Collective over all ranks, but for
// RECHECK_OFF.
bool recheck_is_due(Recheck *recheck, int64_t step, double loss, double norm, bool suspicious);
// After the second pass. False with exit 6, the same on every rank, when anything differs: which
// ranks, and in what. Collective over all ranks.
bool recheck_compare(Recheck *recheck, int64_t step, double loss, double norm, Error *err);

#endif
