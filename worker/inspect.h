// What is inside a checkpoint, for people and scripts.
#ifndef MOETRAIN_WORKER_INSPECT_H
#define MOETRAIN_WORKER_INSPECT_H

#include "worker/train_config.h"

// `moetrain inspect CKPT`: step, parameters (total and active), configuration, heat map of expert
// load by layer. config: parsed from the checkpoint. Returns the exit code. Not collective.
int inspect_run(const TrainConfig *config, const char *checkpoint_path, Error *err);
// `moetrain inspect --digest CKPT`: one line of hex. Not collective.
int inspect_digest(const char *checkpoint_path, Error *err);

#endif
