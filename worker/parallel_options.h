// Whether a number of ranks can run a configuration: the rules that the sections of keys cannot
// know.
#ifndef MOETRAIN_WORKER_PARALLEL_OPTIONS_H
#define MOETRAIN_WORKER_PARALLEL_OPTIONS_H

#include "worker/train_config.h"

// For training on `ranks` ranks: shards, replicas of experts, and parallel.expert, which is decided
// in *config where it is left open. False with exit 2. Not collective.
bool parallel_check_ranks(TrainConfig *config, int ranks, const OptionRules *rules);

// Decides parallel.expert alone, as the largest divisor of the ranks that divides the experts of
// every layer. False with exit 2 when it is given and does not divide the ranks. Not collective.
bool parallel_decide_expert(TrainConfig *config, int ranks, const OptionRules *rules);

#endif
