// How long a job has given no sign of life. A rank that waits for the others is as quiet as the one
// of them that was the last to do something: on the disk of one, a checkpoint may take longer than
// run.hang_timeout, and no rank hangs.
//
// The ranks say how quiet they are in their health files. When this one has been quiet for nearly
// as long as it may be, it looks at the files twice: whose file is not written anew meanwhile is
// stopped, cut off or has no disk, and excuses nobody. No clock is compared with another host's.
#ifndef MOETRAIN_WORKER_WATCH_JOB_QUIET_H
#define MOETRAIN_WORKER_WATCH_JOB_QUIET_H

#include "worker/watch/rank_health.h"

typedef struct JobQuiet {
    double own;     // seconds since this rank's main thread beat
    double excused; // of them, in which another rank was at work
    bool looked;    // once: `before`, so many seconds ago
    double since_look;
    RankHealth *before; // NULL where nobody answered
} JobQuiet;

// So many seconds more; `beat`: the main thread has given a sign of life in them.
void job_quiet_pass(JobQuiet *quiet, double seconds, bool beat);
// Whether the job has been quiet for longer than `timeout` seconds; 0: it may be. Looks at the
// files when that is near, for a few seconds at most where a disk does not answer.
bool job_quiet_expired(JobQuiet *quiet, double timeout);
// How long it has been, as far as that was found out.
double job_quiet_seconds(const JobQuiet *quiet);

// The rest of a second look: how long the rank that was the last to do something has been quiet, of
// those whose files have changed between the looks `before` and `now`, but for `own`; INFINITY:
// none has.
double job_quiet_of_others(const RankHealth *before, const RankHealth *now, int ranks, int own);

#endif
