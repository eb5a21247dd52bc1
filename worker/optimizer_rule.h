// What an optimizer is: the states that it keeps of every parameter and one function. Everything
// else (memory, clipping, groups, checkpoints, plan) follows from it.
//
// A new optimizer writes one file, optimizer_NAME.c, which exports one OptimizerRule, a word in
// train_config.h and a row of OPTIMIZERS in optimizer.c; its keys are rows of optimizer_options.c.
#ifndef MOETRAIN_WORKER_OPTIMIZER_RULE_H
#define MOETRAIN_WORKER_OPTIMIZER_RULE_H

#include "model/params.h"
#include "worker/train_config.h"

enum { OPTIMIZER_STATES_MAX = 4 };

// One update of a flat range of one run of parameters, n elements, a multiple of PARAM_ALIGNMENT.
typedef struct OptimizerUpdate {
    Device *dev;
    const OptimizerConfig *config;
    double lr;                           // of this step, before a group's scale
    double grad_scale;                   // clipping: multiplies every gradient
    int64_t t;                           // counts updates from 1
    Tensor values;                       // (n) f32
    Tensor copy;                         // (n) bf16: receives the values rounded; data NULL: none
    Tensor gradients;                    // (n) f32, summed over the step
    Tensor states[OPTIMIZER_STATES_MAX]; // (n) f32, as the rule names them
    Tensor groups; // (n / PARAM_ALIGNMENT) u8: the ParamGroupNumber of each of them
} OptimizerUpdate;

typedef struct OptimizerRule {
    // Each state is as large as the parameters, f32, zero before the first update, and saved in
    // checkpoints as optimizer/STATE/PARAMETER. NULL behind the last.
    const char *states[OPTIMIZER_STATES_MAX + 1];
    // Every rank that holds a parameter computes the same bits. Not collective.
    void (*update)(const OptimizerUpdate *update);
} OptimizerRule;

extern const OptimizerRule ADAMW;

#endif
