// Steps whose loss or gradient norm lies far above those before: a batch of broken data, or the
// beginning of a loss spike. When they are not applied they change no weight (llm.c's outlier
// detector; SkipStepOptimizer of OLMo-core, whose rule this is).
//
//   an outlier when x - mean > z · s for x the loss or the gradient norm, with mean and s (n - 1
//   under the root) over the last `window` steps before this one
//
// Every finite step enters the window, skipped or not: where the level has changed for good, the
// window follows. It judges from half a window on.
#ifndef MOETRAIN_WORKER_WATCH_STEP_OUTLIERS_H
#define MOETRAIN_WORKER_WATCH_STEP_OUTLIERS_H

#include "checkpoint/checkpoint.h"
#include "worker/train_config.h"

enum { ROLLBACK_TIMES, ROLLBACK_STEP, ROLLBACK_NUMBERS };
typedef struct StepOutliers {
    double z; // 0: every step is applied
    int64_t window;
    double *steps; // (window, 2) loss and gradient norm, the oldest first; NaN where there is none
    int64_t found; // outliers in all
    SpikePolicy policy;
    // Times that one led back, and to which step the last time (roll_back.h).
    int64_t rollbacks[ROLLBACK_NUMBERS];
} StepOutliers;

void step_outliers_open(StepOutliers *outliers, const OptimizerConfig *config);
void step_outliers_close(StepOutliers *outliers); // legal on a zeroed struct

// Whether a step, whose numbers are finite and the same on every rank, is an outlier; then `why`
// says so. Not collective.
enum { STEP_OUTLIER_BYTES = 160 };
bool step_outliers_judge(const StepOutliers *outliers, double loss, double norm,
                         char why[STEP_OUTLIER_BYTES]);
// The step is done, applied or not, and takes its place in the window.
void step_outliers_enter(StepOutliers *outliers, double loss, double norm, bool outlier);

// ---- where a spike leads back to (roll_back.h) --------------------------------------------------

// The step of the checkpoint that a spike in step number `step` leads back to, not before the one
// that the last spike led to; 0: to none, since the run is too young.
int64_t rollback_target(const TrainConfig *config, const StepOutliers *outliers, int64_t step);
// Batches that are skipped after going from step number `step` back to the target.
int64_t rollback_batches(const TrainConfig *config, int64_t step, int64_t target);

// ---- checkpoints --------------------------------------------------------------------------------

// What a checkpoint keeps of it; returns how many. A file of another window, or of none, leaves it
// empty.
enum { STEP_OUTLIERS_TENSORS = 3 };
int step_outliers_tensors(StepOutliers *outliers, SavedTensor out[STEP_OUTLIERS_TENSORS]);

#endif
