// Whether a number of ranks can run a configuration: the rules that the sections of keys cannot
// know.
#ifndef MOETRAIN_WORKER_PARALLEL_OPTIONS_H
#define MOETRAIN_WORKER_PARALLEL_OPTIONS_H

#include "worker/train_config.h"

// For training on `ranks` ranks: shards, replicas of experts, and parallel.expert, which is decided
// in *config where it is left open. False with exit 2. Not collective.
bool parallel_check_ranks(TrainConfig *config, int ranks, const OptionRules *rules);

// Decides parallel.expert alone, for ranks that share so many shards: a divisor of the ranks. False
// with exit 2 when it is given and none that they allow. Not collective.
bool parallel_decide_expert(TrainConfig *config, int ranks, int64_t shards,
                            const OptionRules *rules);

#endif
