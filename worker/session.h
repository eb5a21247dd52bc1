// What training, evaluation and generation begin with: a tested device and the process groups.
#ifndef MOETRAIN_WORKER_SESSION_H
#define MOETRAIN_WORKER_SESSION_H

#include "comm/process_groups.h"
#include "kernels/threads.h"
#include "model/model.h"
#include "worker/train_config.h"

typedef struct Session {
    Device dev;
    ProcessGroups groups;
    ThreadChoice threads; // of this rank, and why
} Session;

// Opens and tests the device, on as many threads as threads_choose says, and the process groups.
// The error is the same on every rank. Collective over all ranks.
bool session_open(Session *session, const TrainConfig *config, Error *err);
void session_close(Session *session); // legal on a zeroed struct. Collective over all ranks.

// The storage type of activations: train.precision.
DType session_storage(const TrainConfig *config);
// Lets a cut that computes forward hold its weights otherwise, with activations of f32; not
// WEIGHTS_AS_TRAINED.
void session_hold_weights(ModelSplit *split, WeightKind weights);
// How this run cuts its model over ranks. config->expert_parallel is resolved (config_check_ranks).
// Not collective.
ModelSplit session_split(const TrainConfig *config, int64_t ranks, int64_t rank, bool training);

#endif
