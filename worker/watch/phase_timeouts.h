// How long a rank may be quiet before that is a hang, by what it is doing: five times the longest
// that a phase of each step has been quiet so far, within bounds (NVIDIA's resiliency extension
// learns its timeouts so). What comes once, or seldom, has the upper bound: starting, loading,
// saving, evaluating; and so has what was hardly seen yet.
#ifndef MOETRAIN_WORKER_WATCH_PHASE_TIMEOUTS_H
#define MOETRAIN_WORKER_WATCH_PHASE_TIMEOUTS_H

#include <stdbool.h>

enum { PHASES_OF_A_STEP = 8 };

typedef struct PhaseTimeouts {
    double least, most; // seconds
    struct {
        const char *phase;
        double longest; // seconds between two signs of life in it
    } of[PHASES_OF_A_STEP];
    int count;
} PhaseTimeouts;

// A phase of each step has given a sign of life after quiet_seconds.
void phase_timeouts_learn(PhaseTimeouts *timeouts, const char *phase, double quiet_seconds);
// Seconds. repeats: how often the phase has begun, of one that comes in each step; of another one
// 0. *learned: the answer is less than the upper bound.
double phase_timeouts_of(const PhaseTimeouts *timeouts, const char *phase, int repeats,
                         bool *learned);

#endif
