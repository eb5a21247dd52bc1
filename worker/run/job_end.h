// When the time of this job is over: run.max_minutes after its start, or at the time limit of the
// batch system, whichever comes first.
#ifndef MOETRAIN_WORKER_RUN_JOB_END_H
#define MOETRAIN_WORKER_RUN_JOB_END_H

#include <stdbool.h>

enum { JOB_END_SOURCE_BYTES = 96 };

typedef struct JobEnd {
    double at;                         // of clock_seconds(); INFINITY: no limit is known
    char source[JOB_END_SOURCE_BYTES]; // who has set it: "run.max_minutes", "Slurm job 17"
    double own;                        // the end by run.max_minutes; INFINITY: without it
} JobEnd;

// max_minutes: run.max_minutes, counted from now. Within a Slurm job its `squeue` is asked, for ten
// seconds at most. What a supervisor has handed on is taken instead of both. Not collective.
JobEnd job_end_find(double max_minutes);
// Asks Slurm once more: somebody may have changed the limit (scontrol update), or a preemption may
// have. False, and *end as it was, outside a job and where squeue does not answer within some
// seconds. From any thread.
bool job_end_ask(JobEnd *end);
// For the processes that this one will start: the variable MOETRAIN_SECONDS_LEFT.
void job_end_hand_on(const JobEnd *end);

// Slurm's "days-hours:minutes:seconds", whose left parts may be missing; -1 for what is no time,
// such as UNLIMITED.
double slurm_seconds(const char *text);

#endif
