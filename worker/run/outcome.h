// RUN/outcome.json: how the last start of a run ended, in the words of the rank that knew. It is
// absent while a run is alive, and after an end that no rank could tell of (a SIGKILL): the exit
// codes of mpirun and srun are no substitute, since they give 1, 137, 138, 140 or 205 for the same
// end, or never one.
#ifndef MOETRAIN_WORKER_RUN_OUTCOME_H
#define MOETRAIN_WORKER_RUN_OUTCOME_H

#include <stdbool.h>
#include <stdint.h>

enum { OUTCOME_PATH_BYTES = 1280, ATTEMPT_BYTES = 64 };

// Says by which name its starter knows this start: the variable MOETRAIN_ATTEMPT, or nothing.
const char *outcome_attempt(void);

// The run directory is ours from now on: the outcome of the start before goes, and this process's
// fatal end (die) will be noted there. `step` is that of the last finished step, by the time of the
// end. Called on every rank once rank 0 holds the lock.
void outcome_begin(const char *run_dir);
void outcome_step(int64_t step);
// Notes how this start ends, unless another rank has already; does nothing before outcome_begin.
// From any thread. Nothing here is collective.
void outcome_write(int exit_code, const char *message);
// The same for a process that must end in any case: waits two seconds at most, however the file
// system fares.
void outcome_write_soon(int exit_code, const char *message);
// The end that will be written is that of the job's time.
void outcome_out_of_time(void);
void outcome_end(void); // die() is noted no more

#endif
