// The folder of a run: RUN/config.yaml, RUN/metrics.jsonl, RUN/checkpoints/, and RUN/lock against a
// second job (run_lock.h).
#ifndef MOETRAIN_WORKER_RUN_RUN_DIR_H
#define MOETRAIN_WORKER_RUN_RUN_DIR_H

#include "kernels/check.h"

// Creates the folder with its parents. False with exit 5 when it cannot be written. Rank 0 only;
// not collective.
bool run_dir_open(const char *run_dir, Error *err);
// The configuration with a run.dir of ".", the folder that it will lie in, so that a copied or
// moved folder trains in itself. To be freed by the caller. Not collective.
char *run_dir_portable_config(const char *config_yaml);
// Writes that to RUN/config.yaml by temporary name and rename. Rank 0 only; not collective.
bool run_dir_write_config(const char *run_dir, const char *config_yaml, Error *err);

#endif
