// Where the time of a step goes on several ranks: how long each computes, and how long it waits in
// collectives.
//
// Ranks wait for each other in a collective, and then its bytes travel. Who comes last waits for
// the bytes alone: the shortest time of all ranks in collectives of a kind is what its traffic
// costs, and the rest of the others' is waiting. Part of that is there because the busiest rank
// computes longer than the mean; what is left are ranks that are late in turns. So
//   a step = compute + imbalance + wait + exchange + reduction + other,  means over ranks,
// of which the first would be all of it on ranks that share the work evenly and send for nothing.
//
// On a GPU, where collectives go on behind the host's back, its ops wait for them: what they have
// waited is measured between marks around each wait.
#ifndef MOETRAIN_WORKER_WATCH_STEP_TIMES_H
#define MOETRAIN_WORKER_WATCH_STEP_TIMES_H

#include <stdint.h>

// What is timed on each rank: its own computing, and its waits by what travels.
typedef enum TimedKind {
    TIMED_OWN,
    TIMED_EXCHANGE,  // tokens to experts and back
    TIMED_REDUCTION, // of gradients
    TIMED_OTHER,
    TIMED_KINDS,
} TimedKind;

typedef enum StepPart {
    PART_COMPUTE,   // mean over ranks
    PART_IMBALANCE, // how much longer the busiest rank computes
    PART_WAIT,      // for ranks that are late in turns
    PART_EXCHANGE,  // as of the rank that waits least for it, like the next two
    PART_REDUCTION,
    PART_OTHER, // statistics, agreement
    STEP_PARTS,
} StepPart;
extern const char *const STEP_PART_NAMES[STEP_PARTS];

typedef struct StepTimes {
    int ranks;      // 1: nothing is timed
    double *of_all; // (ranks, TIMED_KINDS) seconds a step, of the last look
    double begun[TIMED_KINDS], sums[TIMED_KINDS]; // of this rank
    int64_t steps;                                // since the last look
    double parts[STEP_PARTS];                     // of it, seconds a step; zeros: there was none
    double total[STEP_PARTS];                     // of all steps that were looked at
    int64_t total_steps;
} StepTimes;

void step_times_open(StepTimes *times, int ranks);
void step_times_close(StepTimes *times); // legal on a zeroed struct

// A step begins, and has taken so long. Not collective.
void step_times_begin(StepTimes *times);
void step_times_end(StepTimes *times, double step_seconds);

// Gathers what the steps since the last look took. Returns how many they were, 0: there is nothing
// to see. Collective over all ranks.
int64_t step_times_look(StepTimes *times);

// The parts of (ranks, TIMED_KINDS) times; their sum is the mean step. Not collective.
void step_parts_find(const double *of_all, int ranks, double parts[STEP_PARTS]);
// "compute 81.0 %, imbalance 9.1, …".
enum { STEP_PARTS_BYTES = 160 };
const char *step_parts_describe(const double parts[STEP_PARTS], char text[STEP_PARTS_BYTES]);
double step_parts_sum(const double parts[STEP_PARTS]);

#endif
