// What `moetrain plan` says of the data.
#ifndef MOETRAIN_WORKER_PLAN_DATA_H
#define MOETRAIN_WORKER_PLAN_DATA_H

#include "worker/data/vocabulary.h"

// Prints the tokens of each source and how often a run reads it; where the data is not on this
// machine, that. False with exit 2 where a source would be read more often than its epochs_max. Not
// collective.
bool plan_print_data(const TrainConfig *config, const Vocabulary *vocabulary, Error *err);

#endif
