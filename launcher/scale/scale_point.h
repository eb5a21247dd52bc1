// A point of a scaling experiment: so many ranks, with the routing that the model learns or an even
// one. It is trained for a few steps several times, each a run in a folder of its own. Not
// collective.
#ifndef MOETRAIN_LAUNCHER_SCALE_SCALE_POINT_H
#define MOETRAIN_LAUNCHER_SCALE_SCALE_POINT_H

#include "launcher/config_origin.h"
#include "worker/watch/step_times.h"

// What grows with the ranks.
typedef enum ScaleMode {
    SCALE_STRONG,  // nothing: the same batch is shared by more
    SCALE_WEAK,    // the batch
    SCALE_EXPERTS, // the batch and the experts
} ScaleMode;
extern const char *const SCALE_MODE_NAMES[];

// What all points have in common.
typedef struct ScalePlan {
    const char *path; // of the configuration
    char *text;       // what it says
    size_t bytes;
    const char *const *overrides;
    int override_count;
    ScaleMode mode;
    int64_t steps, warm_up, repeats;
    int64_t batch, experts; // of the first point
    int64_t context;
    int first_ranks;
    const char *launcher; // NULL: supervise's
    const char *output;   // the folder of runs and tables
} ScalePlan;

typedef struct ScalePoint {
    int ranks;
    bool even; // moe.force: balanced
    int64_t batch, experts;

    // What the runs have come to, shares being of the step's time; NaN: nothing.
    int runs, failed;
    double step_ms, low_ms, high_ms; // median, 10th and 90th percentile of all rows
    double tokens_per_second;
    double parts[STEP_PARTS]; // their sum is 1
    double efficiency;        // tokens a second and rank, over those of the first point
    double lost[STEP_PARTS];  // what each part has of 1 - efficiency
    char message[256];        // how one failed
} ScalePoint;

// Whether the point can be run, in folders that are new or were begun with the same keys, and its
// `batch` and `experts`. False with exit 2.
bool scale_point_plan(const ScalePlan *plan, ScalePoint *point, Error *err);
// The configuration of run number `repeat` of it, to be freed by the caller; NULL with *err.
Config *scale_point_config(const ScalePlan *plan, const ScalePoint *point, int64_t repeat,
                           Error *err);
// Trains run number `repeat` of it, unless that is done. Returns the exit code of the run; or, with
// *err, why there was none.
int scale_point_run(const ScalePlan *plan, const ScalePoint *point, int64_t repeat, Error *err);
// Why that run failed, where it has left no outcome.json, into point->message.
void scale_point_last_error(const ScalePlan *plan, ScalePoint *point, int64_t repeat);
// Reads what the runs have come to, but for efficiency and what was lost.
void scale_point_read(const ScalePlan *plan, ScalePoint *point);

#endif
