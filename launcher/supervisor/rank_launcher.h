// The process that starts the ranks: mpirun, srun, or whatever the user's command line is. Its
// output passes through this process, so that a closed terminal or a full disk behind it ends
// nobody.
#ifndef MOETRAIN_LAUNCHER_SUPERVISOR_RANK_LAUNCHER_H
#define MOETRAIN_LAUNCHER_SUPERVISOR_RANK_LAUNCHER_H

#include <sys/types.h>

#include "kernels/check.h"

// The launcher that fits here, by its name: srun in a Slurm job where srun knows PMIx, but mpirun
// inside a step of the job, which leaves no room for another step; mpirun everywhere else.
const char *launcher_here(void);
// The command line of a launcher that is known by its name, with SRUN_OPTIONS of the environment;
// any other is one. In it, {np} stands for the number of ranks, {hosts} for those of supervise
// --hosts that live, {nodes} for the number of nodes that a Slurm job still has; the program and
// its words follow it.
const char *launcher_command(const char *launcher, bool hosts, bool nodes);

typedef struct RankLauncher {
    pid_t pid;
    bool ended;
    int exit_code;  // once it has: 128 + n after signal n
    int streams[2]; // what it writes to stdout and stderr; -1: closed
} RankLauncher;

// Starts `command`, whose blanks and quotes are a shell's, with the NULL-ended `words` behind it
// and the variable MOETRAIN_ATTEMPT. Signals of the terminal and of a batch system pass it by. It
// is asked to stop when this process dies. False with exit 5.
bool rank_launcher_start(RankLauncher *launcher, const char *command, int ranks, const char *hosts,
                         int nodes, char *const *words, const char *attempt, Error *err);
// Passes on what has been written, or waits for it up to `seconds`; and looks whether the launcher
// has ended.
void rank_launcher_serve(RankLauncher *launcher, double seconds);
// Asks the launcher to ask its ranks to stop; false when it would not survive that now.
bool rank_launcher_ask(const RankLauncher *launcher);
void rank_launcher_close(RankLauncher *launcher);

#endif
