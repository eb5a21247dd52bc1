// The training run of one rank. Read train.c first: the training step stands there from top to
// bottom.
#ifndef MOETRAIN_WORKER_TRAIN_H
#define MOETRAIN_WORKER_TRAIN_H

#include "checkpoint/config_difference.h"
#include "worker/train_config.h"

// Trains as configured, from the newest checkpoint where resume says so. config_yaml is the
// resolved configuration, which goes into RUN/config.yaml and every checkpoint; key_rules say what
// a change of a key means on resume. Returns the exit code, the same on every rank: EXIT_DONE,
// EXIT_REQUEUE after a signal, or that of *err. Collective over all ranks.
int train_run(const TrainConfig *config, const char *config_yaml, const KeyRule *key_rules,
              Error *err);

#endif
