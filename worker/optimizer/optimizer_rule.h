// What an optimizer is: the states that it keeps of every parameter and one function. Everything
// else (memory, clipping, groups, checkpoints, plan) follows from it.
//
// A new optimizer writes one file, optimizer_NAME.c, which exports one OptimizerRule, a word in
// train_config.h and a row of OPTIMIZERS in optimizer.c; its keys are rows of optimizer_options.c.
#ifndef MOETRAIN_WORKER_OPTIMIZER_OPTIMIZER_RULE_H
#define MOETRAIN_WORKER_OPTIMIZER_OPTIMIZER_RULE_H

#include "worker/optimizer/hidden_matrices.h"
#include "worker/optimizer/update_groups.h"

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
    const UpdateGroups *table;
    Tensor groups; // (n / PARAM_ALIGNMENT) u8: the row of the table of each of them
    // For a rule with `others`: the range is one parameter and its padding.
    const HiddenMatrices *matrices;
    Tensor scratch[2]; // (n) f32
    Tensor gram[2];    // f32, enough for the Gram matrices of a stack
} OptimizerUpdate;

typedef struct OptimizerRule {
    // Each state is as large as the parameters, f32, zero before the first update, and saved in
    // checkpoints as STATE/PARAMETER: "optimizer/m". NULL behind the last.
    const char *states[OPTIMIZER_STATES_MAX + 1];
    // Every rank that holds a parameter computes the same bits. Not collective.
    void (*update)(const OptimizerUpdate *update);
    // Where this is a rule for hidden matrices (GROUP_HIDDEN): the rule of all other parameters;
    // `update` then gets one parameter at a time. NULL: a rule for all.
    const struct OptimizerRule *others;
} OptimizerRule;

// Rates and decays of all rows of the table, for an op's rule.
void update_rates(const OptimizerUpdate *update, float lr[UPDATE_GROUPS],
                  float weight_decay[UPDATE_GROUPS]);

extern const OptimizerRule ADAMW, SGD, LION, MUON;

#endif
