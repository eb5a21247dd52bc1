// Which source each window of a mix comes from: a function of the seed and the window's number, by
// integer arithmetic, so that the place in a mix is one number.
//
// Source s with share W_s of D gets its c-th window (from 0) among the numbers from ⌊c·D/W_s⌋ to
// before ⌈(c+1)·D/W_s⌉. So at every n it has had less than one window more or less than n·W_s/D:
// proportionate fairness (Baruah, Cohen, Plaxton and Varvel 1996, Algorithmica 15). On one machine
// the earliest deadline first meets all of these, whoever of equal ones goes first: the seed says.
// After D windows it begins anew. A source of share 0 gets none. Not collective.
#ifndef MOETRAIN_WORKER_DATA_MIX_SCHEDULE_H
#define MOETRAIN_WORKER_DATA_MIX_SCHEDULE_H

#include "worker/train_config.h"

enum { MIX_PERIOD_MAX = 1 << 20 };

typedef struct MixSchedule {
    int count;                       // of sources
    int64_t share[DATA_SOURCES_MAX]; // W, without a common divisor
    int64_t period;                  // D, their sum
    uint8_t *source;                 // (period)
    int32_t *number; // (period) how many of its source's windows come before it in the period
} MixSchedule;

// The weights as whole numbers without a common divisor, zeros behind the last. False with exit 2
// when all are 0 or have no common denominator that is small enough.
bool mix_shares(const Rational *weights, int count, int64_t share[DATA_SOURCES_MAX], Error *err);
// Of shares whose sum is from 1 to MIX_PERIOD_MAX.
void mix_schedule_make(MixSchedule *schedule, const int64_t share[DATA_SOURCES_MAX], int count,
                       uint64_t seed);
void mix_schedule_free(MixSchedule *schedule); // legal on a zeroed struct

// The source of window n >= 0; *number: of this window among all of that source.
int mix_schedule_source(const MixSchedule *schedule, int64_t n, int64_t *number);
// How many of the first n windows are of a source.
int64_t mix_schedule_count(const MixSchedule *schedule, int source, int64_t n);

#endif
