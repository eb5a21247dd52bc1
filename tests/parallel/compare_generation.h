// Whether a model says the same however it is asked.
#ifndef MOETRAIN_TESTS_PARALLEL_COMPARE_GENERATION_H
#define MOETRAIN_TESTS_PARALLEL_COMPARE_GENERATION_H

#include <stdio.h>

#include "worker/train_config.h"

// Prints "compared CACHE TRAINING" to `answers`, of sequences of train.context tokens. Each is the
// largest difference, over the root mean square:
//   CACHE     of logits with the cache from those of the whole sequence at once
//   TRAINING  of the losses of a micro-batch of training from those of the latter logits
// On one rank and the CPU, with parameters at their initial values. False with exit 2 where such a
// model does not generate.
bool compare_generation(FILE *answers, const TrainConfig *config, Error *err);

#endif
