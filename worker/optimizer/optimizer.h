// The optimizer: the norm of the whole gradient, groups of parameters, and the loop that has every
// parameter updated by the rule of its group. The rules are in optimizer_rule.h.
#ifndef MOETRAIN_WORKER_OPTIMIZER_OPTIMIZER_H
#define MOETRAIN_WORKER_OPTIMIZER_OPTIMIZER_H

#include "model/model.h"
#include "worker/optimizer/lagging_rows.h"
#include "worker/optimizer/optimizer_rule.h"

// A row of the list, by OptimizerKind.
typedef struct OptimizerChoice {
    Choice choice;
    const OptimizerRule *rule;
} OptimizerChoice;
extern const OptimizerChoice OPTIMIZERS[];

typedef struct OptimizerState {
    const char *name;  // the folder of its tensors in checkpoints: "optimizer/m", "ema"
    ParamTable params; // the model's, of which only those that have the state take room
    bool *has;         // by parameter
    ParamSet set;
} OptimizerState;

// A range of a run whose parameters have the same rule.
typedef struct UpdateRange {
    const OptimizerRule *rule;
    ParamRun run;
    int64_t first, elements;
    int64_t
        state_first[OPTIMIZER_STATES_MAX]; // where the range begins in each of the rule's states
    HiddenMatrices *matrices;              // of a rule for them
} UpdateRange;

typedef struct Optimizer {
    OptimizerConfig config;
    // Those of all rules in use, each name once: rules that share one have different parameters.
    OptimizerState states[OPTIMIZER_STATES_MAX];
    int state_count;
    UpdateRange *ranges;
    int range_count;
    HiddenMatrices *matrices;   // by parameter
    Tensor scratch[2], gram[2]; // of a rule for matrices
    int average; // the state that is the moving average of the parameters (train.ema); -1: none
    UpdateGroups table;
    // By ParamRun. u8: the row of the table of each PARAM_ALIGNMENT elements of a run
    Tensor groups[GRADIENT_RUNS];
    Tensor offsets[GRADIENT_RUNS]; // i64: where in a run each segment begins (param_local_segments)
    Tensor squares[GRADIENT_RUNS]; // f64: ‖g‖² of each
    Tensor host_squares[GRADIENT_RUNS];
    Tensor marks;          // i32, of each of RUN_EXPERT: 0 in parameters of few_rows; rank 0: all 1
    LaggingTables lagging; // parameters that are in no range
    Tensor norms; // f64 on the host: ‖g‖² of each segment of each parameter, over all ranks
    Arena arena, host_arena;
} Optimizer;

// As the model's: measure, then allocate; states start at zero. The optimizer must stay where it
// is: the model calls it. Not collective.
void optimizer_measure(Optimizer *optimizer, const Model *model, const OptimizerConfig *config);
void optimizer_allocate(Optimizer *optimizer, Model *model);
void optimizer_free(Optimizer *optimizer); // legal on a zeroed struct

// Whether the rule of parameter `param` keeps the state.
bool optimizer_has_state(const Optimizer *optimizer, int state, int param);

// ‖g‖ over model->gradients.sum, each dense parameter and each expert counted once; the same bits
// on every rank and any number of ranks; not finite everywhere where one rank's copy is not.
// Collective over all ranks.
double optimizer_gradient_norm(Optimizer *optimizer, Model *model);

// One update with the step's gradients times grad_scale. `t` counts updates from 1. Not collective:
// every rank that holds a parameter computes the same update.
void optimizer_update(Optimizer *optimizer, Model *model, double lr, int64_t t, double grad_scale);

// Rows that no step has used for a while may lack updates (lagging_rows.h): they get them before
// anybody reads the parameters or the states; and have all of them, where both have been replaced.
// Not collective.
void optimizer_catch_up(Optimizer *optimizer);
void optimizer_forget_updates(Optimizer *optimizer);

// The moving average of what gradients change: begins with the values as they are, and follows them
// after each update. Nothing without train.ema. Not collective.
void optimizer_begin_average(Optimizer *optimizer, Model *model);
void optimizer_average(Optimizer *optimizer, Model *model);
// Has an evaluation model beside the one that trains compute with the average (instead of the
// values, where `average`), or again with the values. It stays so until the next call, which must
// come before the next step. Not collective.
void optimizer_lend_average(const Optimizer *optimizer, Model *trained, Model *evaluation,
                            bool average);

#endif
