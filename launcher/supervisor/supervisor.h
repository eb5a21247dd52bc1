// What a supervisor is made of: supervise.c has the loop, supervisor_requests.c answers who asks.
#ifndef MOETRAIN_LAUNCHER_SUPERVISOR_SUPERVISOR_H
#define MOETRAIN_LAUNCHER_SUPERVISOR_SUPERVISOR_H

#include <limits.h>

#include "launcher/supervisor/control_socket.h"
#include "launcher/supervisor/restart_policy.h"
#include "launcher/supervisor/supervise.h"
#include "worker/run/job_end.h"

enum {
    SUPERVISOR_HOSTS_BYTES = 65536,
    SUPERVISOR_SETS = 8, // keys that `set` may change, at least as many as LIVE_KEYS
    SUPERVISOR_WORDS = 256 + SUPERVISOR_SETS + 8,
    SUPERVISOR_SET_BYTES = 2 * CONTROL_WORD_BYTES,
};

typedef struct Supervisor {
    const SuperviseOptions *options;
    const char *path; // the configuration's file
    const char *const *overrides;
    int override_count;
    Config *config;    // with what was set
    TrainConfig train; // on the ranks of the present start

    char sets[SUPERVISOR_SETS][SUPERVISOR_SET_BYTES]; // "key=value", in the order of the requests
    int set_count;
    char resume[CONFIG_PATH_BYTES + 16]; // "resume=…"; empty: as configured

    char hosts[SUPERVISOR_HOSTS_BYTES];
    int ranks;
    const char *launcher;   // as options.launcher, never NULL
    int nodes, first_nodes; // of the Slurm job, now and at first; 0: in none
    int number;             // of the present start, from 1
    bool alive;             // it has not ended
    JobEnd end;             // of all starts
    double beaten;          // when the supervisor's lock was touched last
    Progress progress;
    ControlSocket control;
} Supervisor;

// A ControlAnswer of a Supervisor.
bool supervisor_answer(void *supervisor, const ControlRequest *request, char *answer, size_t room,
                       Error *err);

#endif
