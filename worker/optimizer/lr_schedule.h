// The learning rate of a step.
#ifndef MOETRAIN_WORKER_OPTIMIZER_LR_SCHEDULE_H
#define MOETRAIN_WORKER_OPTIMIZER_LR_SCHEDULE_H

#include "worker/train_config.h"

// Step counts from 0; `steps` is the length of the run. Warm-up rises linearly to lr over
// warmup_steps (step 0 takes lr / warmup_steps). Then: constant; linear or cosine from lr to min_lr
// at the last step; WSD (warmup-stable-decay, arXiv:2404.06395) stays at lr and falls linearly to
// min_lr over the last decay_steps.
double lr_at(const OptimizerConfig *config, int64_t step, int64_t steps);

#endif
