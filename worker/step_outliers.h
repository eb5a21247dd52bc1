// Steps that are not applied because their loss or gradient norm lies far above those before: a
// batch of broken data, or the beginning of a loss spike, then changes no weight (llm.c's outlier
// detector; SkipStepOptimizer of OLMo-core, whose rule this is).
//
//   skipped when x - mean > z · s for x the loss or the gradient norm, with mean and s (n - 1 under
//   the root) over the last `window` steps before this one
//
// Every finite step enters the window, skipped or not: where the level has changed for good, the
// window follows. It judges from half a window on.
#ifndef MOETRAIN_WORKER_STEP_OUTLIERS_H
#define MOETRAIN_WORKER_STEP_OUTLIERS_H

#include "checkpoint/checkpoint.h"
#include "worker/train_config.h"

typedef struct StepOutliers {
    double z; // 0: every step is applied
    int64_t window;
    double *steps; // (window, 2) loss and gradient norm, the oldest first; NaN where there is none
    int64_t skipped; // steps in all
} StepOutliers;

void step_outliers_open(StepOutliers *outliers, const OptimizerConfig *config);
void step_outliers_close(StepOutliers *outliers); // legal on a zeroed struct

// Whether the step, whose numbers are finite and the same on every rank, is to be skipped; says so.
// It then is in the window. Not collective.
bool step_outliers_find(StepOutliers *outliers, double loss, double norm, int64_t step);

// What a checkpoint keeps of it; returns how many. A file of another window, or of none, leaves it
// empty.
enum { STEP_OUTLIERS_TENSORS = 2 };
int step_outliers_tensors(StepOutliers *outliers, SavedTensor out[STEP_OUTLIERS_TENSORS]);

#endif
