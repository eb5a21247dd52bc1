// What a supervisor does when a start of a run has ended: one table by exit code, and the rule that
// says when to give up. Nothing here looks at files, processes or clocks.
#ifndef MOETRAIN_LAUNCHER_SUPERVISOR_RESTART_POLICY_H
#define MOETRAIN_LAUNCHER_SUPERVISOR_RESTART_POLICY_H

#include <stdbool.h>
#include <stdint.h>

typedef enum Action {
    ACTION_LEAVE,          // with the exit code: done, saved, or nothing that a restart mends
    ACTION_RESTART,        // from the newest checkpoint, after a wait
    ACTION_WAIT_FOR_SPACE, // the same once the disk has room for a checkpoint
    ACTION_GO_BACK,        // the same from the newest checkpoint that was healthy
} Action;
const char *action_name(Action action); // "leave", …

// How one start ended.
typedef struct AttemptEnd {
    int exit_code;
    bool first;         // of this supervisor
    bool asked;         // to stop, through the supervisor
    bool out_of_time;   // saved before the end of the job's time
    bool told;          // a rank has written the outcome: it held the lock of the run directory
    int64_t first_step; // where it began; -1: it did not get so far
    int64_t step;       // the last one known to be finished; -1: as above
    int64_t saved_step; // of the newest checkpoint; -1: none
} AttemptEnd;

// What is remembered of the starts before.
typedef struct Progress {
    int64_t saved_step;  // of the newest checkpoint so far
    int64_t failed_step; // where the last start failed, after steps of its own; -1: it did none
    int fruitless;       // starts in a row that left no newer checkpoint
} Progress;

typedef struct Decision {
    Action action;
    double wait_seconds; // before the restart
    char reason[160];    // for people
} Decision;

// Begins with *progress = {.saved_step = of the newest checkpoint, or -1, .failed_step = -1}.
// first_wait_seconds is that of the first restart; it doubles up to MOST_WAIT_SECONDS until there
// is a newer checkpoint. Gives up after two starts that failed at the same step, and after
// MOST_FRUITLESS that left no newer checkpoint. Starts that find the run directory held by ranks of
// the start before, which end with their own watchdog, do not count; HELD_TIMES the first wait lies
// between them.
enum { MOST_WAIT_SECONDS = 300, MOST_FRUITLESS = 5, HELD_TIMES = 6 };
Decision restart_decide(Progress *progress, const AttemptEnd *end, double first_wait_seconds);

#endif
