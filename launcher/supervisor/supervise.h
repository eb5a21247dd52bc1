// `moetrain supervise`: starts the ranks of a run again and again until it is done. Read
// supervise.c for the loop, restart_policy.c for what follows from which end, attempt.c for one
// start.
#ifndef MOETRAIN_LAUNCHER_SUPERVISOR_SUPERVISE_H
#define MOETRAIN_LAUNCHER_SUPERVISOR_SUPERVISE_H

#include "launcher/config_origin.h"

typedef struct SuperviseOptions {
    int64_t ranks;        // 0: the slots of `hosts`
    const char *launcher; // mpirun, srun or a command line; NULL: what fits (rank_launcher.h)
    const char *hosts;    // "a:4,b:4"; NULL: the launcher knows
    double wait_seconds;  // before the first restart
    bool daemon;          // in the background, its output in RUN/supervise.log
} SuperviseOptions;

// Trains `path` with the overrides until it is done, cannot go on, or is asked to stop by SIGUSR1,
// SIGTERM, SIGINT or SIGHUP. Returns the last start's exit code; or, with *err, why there was none.
int supervise_run(const SuperviseOptions *options, const Config *config, const char *path,
                  const char *const *overrides, int override_count, Error *err);

#endif
