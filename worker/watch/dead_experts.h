// Experts that no token chooses any more: whoever is watching a run should hear of them once. Of
// feed-forwards and of attention; those of Soft MoE are not chosen, and of PEER's very many some
// always go without.
#ifndef MOETRAIN_WORKER_WATCH_DEAD_EXPERTS_H
#define MOETRAIN_WORKER_WATCH_DEAD_EXPERTS_H

#include "checkpoint/checkpoint.h"
#include "model/statistics.h"

typedef struct DeadExperts {
    int64_t limit;  // steps without a choice after which an expert is dead; 0: nobody watches
    int64_t *steps; // (count) in a row without one, of the experts of all layers that count choices
    int64_t count;
} DeadExperts;

void dead_experts_open(DeadExperts *dead, const Statistics *stats, int64_t limit);
void dead_experts_close(DeadExperts *dead); // legal on a zeroed struct

// After a step, with its statistics summed over all ranks: a warning names the layer and the
// experts that have just been without a choice for `limit` steps in a row; one that is chosen again
// may die again. The same on every rank, of which one warns. Not collective.
void dead_experts_watch(DeadExperts *dead, const Statistics *stats, int64_t step);

// What a checkpoint keeps of it, so that a resume changes no warning; returns how many.
enum { DEAD_EXPERTS_TENSORS = 1 };
int dead_experts_tensors(DeadExperts *dead, SavedTensor out[DEAD_EXPERTS_TENSORS]);

#endif
