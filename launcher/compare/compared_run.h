// One run of a comparison: a row and a seed, in a folder of its own. `moetrain supervise` trains
// it, a process whose output goes to RUN/compare.log; what a run has done is what its folder says.
// Not collective.
#ifndef MOETRAIN_LAUNCHER_COMPARE_COMPARED_RUN_H
#define MOETRAIN_LAUNCHER_COMPARE_COMPARED_RUN_H

#include "launcher/config_origin.h"

typedef struct ComparedRun {
    int row, seed; // numbers in the comparison
    int64_t until; // steps up to which it is to train now; 0: train.steps
    char dir[CONFIG_PATH_BYTES];
} ComparedRun;

// Whether the folder is new, or its run was begun with this configuration: what differs may change
// no result. False with exit 2, what differs, and the fix.
bool compared_run_check(const ComparedRun *run, const Config *config, Error *err);

// Writes the configuration to RUN/compare.yaml, and trains it on `ranks` ranks until it is done or
// is asked to stop. Returns the exit code of the run; or, with *err, why there was none.
int compared_run_train(const ComparedRun *run, const Config *config, int ranks,
                       const char *launcher, Error *err);

// Why a run failed that has left no outcome.json.
void compared_run_last_error(const ComparedRun *run, char *message, size_t bytes);

// What its model takes to write a text, token after token in one process, as `moetrain generate
// --json --timings` says it, in RUN/inference.json; where a model writes none, why is in
// RUN/compare.log. Measured once. False with exit 5 when it cannot be started.
bool compared_run_time_inference(const ComparedRun *run, const Config *config, Error *err);

#endif
