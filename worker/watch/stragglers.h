// Ranks that hold the others up: all wait for the slowest in each step. A rank's score is the time
// that the fastest takes to compute a step over its own, outside collectives, where ranks wait for
// each other (the relative score of NVIDIA's resiliency extension).
//
// On a GPU, where collectives go on behind the host's back, its ops wait for them: what they have
// waited is measured between marks around each wait, and belongs to no rank's own time either.
#ifndef MOETRAIN_WORKER_WATCH_STRAGGLERS_H
#define MOETRAIN_WORKER_WATCH_STRAGGLERS_H

#include <stdint.h>

#include "worker/run/rank_places.h"

typedef struct Stragglers {
    int64_t limit; // steps in a row after which a rank is a straggler; 0: nobody looks
    int ranks;
    const RankPlace *places; // (ranks)
    double *seconds;         // (ranks) of a step since the last look, outside collectives
    int64_t *behind;         // (ranks) steps in a row with a low score
    // Of this rank, since the last look.
    double own_seconds, waited_seconds; // the second by collectives_waited_seconds, at the begin
    int64_t steps;
    // Of the last look; score 0: there was none.
    int slowest;
    double score;
} Stragglers;

// limit: log.straggler_steps. The first call in a process is collective over all ranks.
void stragglers_open(Stragglers *stragglers, int64_t limit);
void stragglers_close(Stragglers *stragglers); // legal on a zeroed struct

// A step begins, and has taken so long. Not collective.
void stragglers_begin_step(Stragglers *stragglers);
void stragglers_end_step(Stragglers *stragglers, double step_seconds);

// Compares the ranks over the steps since the last look. Collective over all ranks.
void stragglers_look(Stragglers *stragglers, int64_t step);
// The rest of that, with `seconds` there: finds the slowest, and says who has just been behind for
// `limit` steps. Returns of how many it said so. Not collective.
int stragglers_judge(Stragglers *stragglers, int64_t step);
// Whether the slowest is one.
bool stragglers_has_one(const Stragglers *stragglers);

#endif
