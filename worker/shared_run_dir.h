// Whether all ranks write to one folder.
#ifndef MOETRAIN_WORKER_SHARED_RUN_DIR_H
#define MOETRAIN_WORKER_SHARED_RUN_DIR_H

#include "kernels/check.h"

// Proves with an empty file, which is removed again, that run.dir is the same folder for all ranks and not one of the same name
// on each host: every rank writes its part of a checkpoint there. Exit 5. Collective over all ranks.
bool shared_run_dir_check(const char *run_dir, Error *err);

#endif
