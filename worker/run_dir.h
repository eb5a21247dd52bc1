// The folder of a run: RUN/config.yaml, RUN/metrics.jsonl, RUN/checkpoints/, and a lock against a second job.
#ifndef MOETRAIN_WORKER_RUN_DIR_H
#define MOETRAIN_WORKER_RUN_DIR_H

#include "kernels/check.h"

// Creates the folder with its parents, proves that it can be written, and takes RUN/lock until the process ends.
// False with exit 5, or exit 2 when another job holds the lock. Rank 0 only; not collective.
bool run_dir_open(const char *run_dir, Error *err);
// Writes RUN/config.yaml by temporary name and rename. Its run.dir is ".", the folder that it lies in, so that a copied or
// moved folder trains in itself. Rank 0 only; not collective.
bool run_dir_write_config(const char *run_dir, const char *config_yaml, Error *err);

#endif
