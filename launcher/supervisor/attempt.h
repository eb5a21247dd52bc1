// One start of a run, from its launcher's first process to the last rank's end.
//
// What the ranks write is believed before what the launcher says: mpirun's exit code depends on who
// ends first, and with a lost host it may never come. The start is over when no process of it is
// left; leftovers that have no reason to live are killed.
#ifndef MOETRAIN_LAUNCHER_SUPERVISOR_ATTEMPT_H
#define MOETRAIN_LAUNCHER_SUPERVISOR_ATTEMPT_H

#include "launcher/supervisor/restart_policy.h"
#include "worker/run/outcome.h"

typedef struct Attempt {
    // Given.
    const char *run_dir;
    char name[ATTEMPT_BYTES]; // unique: the variable MOETRAIN_ATTEMPT
    const char *command;      // rank_launcher.h
    bool first;               // of this supervisor
    int ranks;
    const char *hosts; // for {hosts}
    int nodes;         // for {nodes}
    char *const *words;
    double hang_timeout;          // run.hang_timeout
    void (*serve)(void *context); // what else there is to do, ten times a second
    void *context;
    // How it ended.
    AttemptEnd end;
    int launcher_code;
    char message[1536]; // why
} Attempt;

// Starts and watches it; SIGUSR1, SIGTERM, SIGINT and SIGHUP of this process are passed on to the
// ranks as SIGUSR1, and waited for however long saving takes.
void attempt_run(Attempt *attempt);

// The step of the newest checkpoint's name; -1: there is none.
int64_t newest_checkpoint(const char *run_dir);

#endif
