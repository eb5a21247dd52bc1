// AdamW with decoupled weight decay (arXiv:1711.05101), and the global gradient norm for clipping.
#ifndef MOETRAIN_WORKER_OPTIMIZER_H
#define MOETRAIN_WORKER_OPTIMIZER_H

#include "model/model.h"
#include "worker/train_config.h"

typedef struct Optimizer {
    ParamSet m, v; // first and second moments
    // By ParamRun. u8: whether each PARAM_ALIGNMENT elements of a run decay
    Tensor decays[GRADIENT_RUNS];
    // i64: where in a run each parameter, or each of this rank's experts of one, begins
    Tensor offsets[GRADIENT_RUNS];
    Tensor squares[GRADIENT_RUNS]; // f64: ‖g‖² of each of them
    Tensor host_squares[GRADIENT_RUNS];
    // f64 on the host: ‖g‖² of each dense parameter, and of each expert, over all ranks, of each
    // expert parameter
    Tensor norms;
    Arena arena, host_arena;
} Optimizer;

// As the model's: measure, then allocate; moments start at zero. Not collective.
void optimizer_measure(Optimizer *optimizer, const Model *model);
void optimizer_allocate(Optimizer *optimizer, const Model *model);
void optimizer_free(Optimizer *optimizer); // legal on a zeroed struct

// ‖g‖ over model->gradients.sum, each dense parameter and each expert counted once; the same bits
// on every rank and any number of ranks. Collective over expert_parallel.
double optimizer_gradient_norm(Optimizer *optimizer, Model *model);

// One update with the accumulated gradients times grad_scale. `t` counts updates from 1. Not
// collective: every rank that holds a parameter computes the same update.
void optimizer_update(Optimizer *optimizer, Model *model, const OptimizerConfig *config, double lr,
                      int64_t t, double grad_scale);

#endif
