// The end of the job's time (job_end.h), and the request to stop that comes early enough to save
// before it: by the durations that this run has measured. Rank 0's watchdog thread makes it, as a
// signal would, and all ranks obey after the same step, or within an evaluation. The clock is the
// monotonic one: when somebody sets the date nothing happens.
//
// What must fit is the longest step so far, and SAVES_KEPT times the longest save. Before the first
// save its bytes at ASSUMED_BYTES_A_SECOND stand for it. No request comes before a start has done a
// step, so that a job that comes back again and again gets on.
//
// Slurm's limit may change while the run is alive: it is asked again every five minutes, and more
// often before the run is stopped for it.
#ifndef MOETRAIN_WORKER_RUN_TIME_LIMIT_H
#define MOETRAIN_WORKER_RUN_TIME_LIMIT_H

#include <stdbool.h>
#include <stdint.h>

#include "worker/run/job_end.h"

// Finds the limit. On ranks other than 0 this and the rest do nothing.
void time_limit_begin(double max_minutes, bool asynchronous_saves);
// Says what is known of it.
void time_limit_log(void);
// How many bytes a save will write: all ranks together.
void time_limit_expect_save(int64_t bytes);
void time_limit_step(double seconds);
void time_limit_save(double seconds);
// Asks to stop when it is time. From the watchdog's thread.
void time_limit_beat(void);
// Asks Slurm again when it is time. From the thread of files: it may take some seconds.
void time_limit_ask(void);
// What is known now. From any thread.
JobEnd time_limit_end(void);

// A save of so many bytes of which nothing is known yet: seconds.
double save_seconds_assumed(int64_t bytes);

#endif
