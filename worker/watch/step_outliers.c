#include "worker/watch/step_outliers.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/integers.h"

static const Choice POLICIES[] = {
    [SPIKE_LOG] = {"log", "a warning; the step is applied"},
    [SPIKE_SKIP] = {"skip", "the step is not applied"},
    [SPIKE_ROLLBACK] = {"rollback", "back to a checkpoint before it, and past the data (PaLM)"},
};
const ChoiceTable SPIKE_POLICY_CHOICES = CHOICE_TABLE(POLICIES);

enum { KINDS = 2 };
static const char *const kind_names[KINDS] = {"loss", "gradient norm"};

void step_outliers_open(StepOutliers *outliers, const OptimizerConfig *config) {
    *outliers = (StepOutliers){
        .z = config->skip_z, .window = config->skip_window, .policy = config->spike_policy};
    if (outliers->z == 0) return;
    outliers->steps = calloc((size_t)outliers->window * KINDS, sizeof *outliers->steps);
    CHECK_MEMORY(outliers->steps, "no memory for a window of %lld steps",
                 (long long)outliers->window);
    for (int64_t i = 0; i < KINDS * outliers->window; i++) outliers->steps[i] = NAN;
}

void step_outliers_close(StepOutliers *outliers) {
    free(outliers->steps);
    *outliers = (StepOutliers){0};
}

typedef struct Spread {
    int64_t n;
    double mean, deviation; // n - 1 under the root
} Spread;

// Of the n newest steps, added up from the oldest on.
static Spread spread_of(const StepOutliers *outliers, int kind) {
    Spread spread = {0};
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < outliers->window; i++) {
        double x = outliers->steps[KINDS * i + kind];
        if (isnan(x)) continue;
        sum += x;
        spread.n++;
    }
    spread.mean = sum / (double)spread.n;
    for (int64_t i = 0; i < outliers->window; i++) {
        double x = outliers->steps[KINDS * i + kind] - spread.mean;
        if (!isnan(x)) squares += x * x;
    }
    spread.deviation = sqrt(squares / (double)(spread.n - 1));
    return spread;
}

static void enter(StepOutliers *outliers, const double step[KINDS]) {
    size_t row = KINDS * sizeof *outliers->steps, rest = (size_t)(outliers->window - 1) * row;
    memmove(outliers->steps, outliers->steps + KINDS, rest);
    memcpy(outliers->steps + KINDS * (outliers->window - 1), step, row);
}

bool step_outliers_judge(const StepOutliers *outliers, double loss, double norm,
                         char why[STEP_OUTLIER_BYTES]) {
    const double values[KINDS] = {loss, norm};
    for (int kind = 0; kind < KINDS && outliers->z > 0; kind++) {
        Spread spread = spread_of(outliers, kind);
        if (spread.n < 2 || spread.n < outliers->window / 2) continue;
        if (!(values[kind] - spread.mean > outliers->z * spread.deviation)) continue;
        snprintf(why, STEP_OUTLIER_BYTES,
                 "%s %g, while the last %lld steps had %g, standard deviation %.3g",
                 kind_names[kind], values[kind], (long long)spread.n, spread.mean,
                 spread.deviation);
        return true;
    }
    return false;
}

void step_outliers_enter(StepOutliers *outliers, double loss, double norm, bool outlier) {
    if (outliers->z == 0) return;
    enter(outliers, (const double[KINDS]){loss, norm});
    outliers->found += outlier;
}

// ---- where a spike leads back to ----------------------------------------------------------------

int64_t rollback_target(const TrainConfig *config, const StepOutliers *outliers, int64_t step) {
    int64_t back = step - 1 - config->rollback_steps, every = config->checkpoint_every;
    int64_t target = back > 0 && every > 0 ? back / every * every : 0;
    return larger(target, outliers->rollbacks[ROLLBACK_STEP]);
}

int64_t rollback_batches(const TrainConfig *config, int64_t step, int64_t target) {
    return larger(config->rollback_batches, step - target);
}

// ---- checkpoints --------------------------------------------------------------------------------

int step_outliers_tensors(StepOutliers *outliers, SavedTensor out[STEP_OUTLIERS_TENSORS]) {
    if (outliers->z == 0) return 0;
    out[0] = (SavedTensor){.name = "window/steps",
                           .dtype = F64,
                           .rank = 2,
                           .shape = {outliers->window, KINDS, 1},
                           .elements = KINDS * outliers->window,
                           .replicated = true,
                           .data = outliers->steps};
    out[1] = list_tensor("window/skipped", I64, 1, &outliers->found);
    out[2] = list_tensor("window/rollbacks", I64, ROLLBACK_NUMBERS, outliers->rollbacks);
    for (int i = 0; i < STEP_OUTLIERS_TENSORS; i++) out[i].optional = true;
    return outliers->policy == SPIKE_ROLLBACK ? STEP_OUTLIERS_TENSORS : STEP_OUTLIERS_TENSORS - 1;
}
