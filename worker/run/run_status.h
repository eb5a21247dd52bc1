// RUN/status.json: how the run is going, for whoever looks from outside: `moetrain status`, a
// supervisor, a script. Rank 0's watchdog thread writes it about once a second, whole or not at
// all; a disk that is full or gone costs its freshness and nothing else.
//
// What is said here is kept in memory, from the main thread; on ranks other than 0, and before
// run_status_begin, it does nothing.
#ifndef MOETRAIN_WORKER_RUN_RUN_STATUS_H
#define MOETRAIN_WORKER_RUN_RUN_STATUS_H

#include "worker/metrics.h"
#include "worker/watch/stragglers.h"

// The lock of the run directory is ours: from now on the file is. Collective over all ranks.
void run_status_begin(const TrainConfig *config);
// Where the run goes on from: finished steps, and the step of its newest checkpoint, or -1.
void run_status_resumed(int64_t step, int64_t saved_step);
void run_status_step(const StepMetrics *row);
void run_status_stragglers(const Stragglers *stragglers);
void run_status_evaluation(int64_t step, double loss);
void run_status_saved(int64_t step, double seconds);
// Writes the file. About once a second, from the watchdog's thread.
void run_status_beat(void);
// Writes it for the last time, once no other thread beats.
void run_status_end(void);

#endif
