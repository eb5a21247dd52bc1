// What a run will need, computed by the same layout code that allocates it.
#ifndef MOETRAIN_WORKER_PLAN_H
#define MOETRAIN_WORKER_PLAN_H

#include "worker/train_config.h"

// `moetrain plan cfg.yaml -np N`: prints parameters total and active, bytes a rank by category, FLOPs a token and
// bytes of each collective a step. config->model.vocab_size must be set. Returns the exit code. Not collective.
int plan_run(const TrainConfig *config, int ranks, Error *err);

#endif
