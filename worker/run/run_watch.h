// Whether the folder of a run is still there: people remove, move and clean up folders of runs that
// are alive. Rank 0 looks before each row of metrics and each save. Nothing here is collective.
#ifndef MOETRAIN_WORKER_RUN_RUN_WATCH_H
#define MOETRAIN_WORKER_RUN_RUN_WATCH_H

#include <sys/types.h>

#include "kernels/check.h"

typedef struct RunWatch {
    dev_t device;
    ino_t folder, lock;
    bool config; // there is a config.yaml
    bool lost;   // could not be made anew or looked at, which was said
} RunWatch;

// Notes what the run began with: RUN, its lock and its checkpoints folder are there.
void run_watch_begin(RunWatch *watch, const char *run_dir);
// Says in a warning what is gone, and makes it anew: the folder, the lock, config.yaml,
// checkpoints/. False when it cannot be, or when the folder cannot be looked at; the rows are then
// lost and the save fails. Ends the job where another has begun in the folder.
bool run_watch_look(RunWatch *watch, const char *run_dir, const char *config_yaml, Error *err);

#endif
