// What a run will need, computed by the same layout code that allocates it.
#ifndef MOETRAIN_WORKER_PLAN_H
#define MOETRAIN_WORKER_PLAN_H

#include "comm/collectives.h"
#include "model/model.h"
#include "worker/data/vocabulary.h"
#include "worker/train_config.h"

// What the plan must know of where it will run.
typedef struct PlanHost {
    int64_t ranks;
    int threads; // of a rank
    Place place; // of the model's arenas
} PlanHost;

// Figures of rank 0; other ranks differ by rounding only.
typedef struct Plan {
    int64_t total_params, active_params;
    size_t parameter_bytes, gradient_bytes, optimizer_bytes; // of one rank
    size_t activation_bytes, scratch_bytes; // resident when tokens spread evenly over experts
    size_t worst_activation_bytes,
        worst_scratch_bytes; // reserved: all tokens on one rank's experts
    // On the host, beside the arenas: the kernels' working memory of all threads; tables, batches,
    // the history and what a save takes; and pages of libraries that are touched first in training.
    size_t thread_bytes, host_bytes, library_bytes;
    // Forward and backward: of a token on average while routing is even, at least and at most.
    double train_flops_per_token, least_flops_per_token, most_flops_per_token;
    int64_t saved_bytes;              // of a checkpoint, all ranks together, nearly
    double sent_bytes[TRAFFIC_KINDS]; // by one rank, a step, tokens spread evenly, nothing dropped
} Plan;

// Resolves config->model.vocab_size by the data. The vocabulary is the caller's to free; NULL: none
// is wanted. False with exit 2 or 3. Not collective.
bool plan_resolve_vocabulary(TrainConfig *config, Vocabulary *vocabulary, Error *err);

// config->model.vocab_size and expert_parallel must be resolved. False with exit 2 when the model
// cannot be computed in this cut, the same on every rank. Not collective.
bool plan_make(const TrainConfig *config, PlanHost host, Plan *plan, Error *err);
// The model's arenas: when tokens spread evenly, and at most.
size_t plan_resident_bytes(const Plan *plan);
size_t plan_worst_bytes(const Plan *plan);
// What a process takes on the host beyond the arenas and what it had when they were planned.
size_t plan_beside_bytes(const Plan *plan);

// All that a process takes on the host, program and libraries included: when tokens spread evenly,
// or at most.
size_t plan_process_bytes(const Plan *plan, Place place, bool worst);

// `moetrain plan cfg.yaml -np N`: prints the plan. Returns the exit code. Not collective.
int plan_run(const TrainConfig *config, int ranks, Error *err);

#endif
