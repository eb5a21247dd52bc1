// Ranks that hold the others up: all wait for the slowest in each step. A rank's score is the time
// that the fastest takes to compute a step over its own, outside collectives, where ranks wait for
// each other (the relative score of NVIDIA's resiliency extension). A rank that owns more shards
// may take as much longer.
#ifndef MOETRAIN_WORKER_WATCH_STRAGGLERS_H
#define MOETRAIN_WORKER_WATCH_STRAGGLERS_H

#include <stdint.h>

#include "model/work.h"
#include "worker/run/rank_places.h"
#include "worker/watch/step_times.h"

typedef struct Stragglers {
    int64_t limit; // steps in a row after which a rank is a straggler; 0: nobody looks
    int ranks;
    const RankPlace *places; // (ranks)
    int64_t *behind;         // (ranks) steps in a row with a low score
    int64_t *shards;         // (ranks) that each owns; NULL: equally many
    // Of the last look; score 0: there was none.
    int slowest;
    double score;
} Stragglers;

// limit: log.straggler_steps. The first call in a process is collective over all ranks.
void stragglers_open(Stragglers *stragglers, int64_t limit, const RankShape *shape);
void stragglers_close(Stragglers *stragglers); // legal on a zeroed struct

// Finds the slowest of what ranks have computed for in each of the last `steps`, and says who has
// just been behind for `limit` steps. Returns of how many it said so. Not collective.
int stragglers_judge(Stragglers *stragglers, const StepTimes *times, int64_t steps, int64_t step);
// Whether the slowest is one.
bool stragglers_has_one(const Stragglers *stragglers);

#endif
