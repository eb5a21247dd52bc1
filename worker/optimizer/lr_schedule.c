#include "worker/optimizer/lr_schedule.h"

#include <math.h>

static const double PI = 3.14159265358979323846;

// How far the decay has come, 0 to 1, where `first` is the last step at full rate and `last` the
// one at min_lr. A run without room for a decay keeps its full rate.
static double decay_progress(int64_t step, int64_t first, int64_t last) {
    if (last <= first || step <= first) return 0.0;
    return step >= last ? 1.0 : (double)(step - first) / (double)(last - first);
}

static const Choice LR_SCHEDULES[] = {
    [LR_CONSTANT] = {"constant", "stays"},
    [LR_LINEAR] = {"linear", "falls in a straight line to train.min_lr at the last step"},
    [LR_COSINE] = {"cosine",
                   "falls along half a cosine to train.min_lr at the last step (arXiv:1608.03983)"},
    [LR_WSD] = {"wsd", "stays, then falls in a straight line over the last train.decay steps "
                       "(MiniCPM, arXiv:2404.06395)"},
};
const ChoiceTable LR_SCHEDULE_CHOICES = CHOICE_TABLE(LR_SCHEDULES);

double lr_at(const OptimizerConfig *config, int64_t step, int64_t steps) {
    double lr = config->lr, fall = config->lr - config->min_lr;
    int64_t warmup = config->warmup_steps, last = steps - 1;
    if (step < warmup) return lr * (double)(step + 1) / (double)warmup;
    switch (config->schedule) {
    case LR_CONSTANT:
        break;
    case LR_LINEAR:
        return lr - fall * decay_progress(step, warmup, last);
    case LR_COSINE:
        return lr - fall * 0.5 * (1.0 - cos(PI * decay_progress(step, warmup, last)));
    case LR_WSD:
        return lr - fall * decay_progress(step, last - config->decay_steps, last);
    }
    return lr;
}
