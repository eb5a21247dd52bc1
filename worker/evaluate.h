// Validation loss of a checkpoint.
#ifndef MOETRAIN_WORKER_EVALUATE_H
#define MOETRAIN_WORKER_EVALUATE_H

#include "worker/train_config.h"

// `moetrain evaluate CKPT [key=value …]`: loads the parameters and prints loss, perplexity and bits per byte over data.validation.
// config: the checkpoint's own, with overrides. Returns the exit code. Collective over all ranks.
int evaluate_run(const TrainConfig *config, const char *checkpoint_path, Error *err);

#endif
