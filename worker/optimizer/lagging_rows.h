// AdamW for tables of which a step changes few rows (params.h, few_rows; a PEER layer's experts): a
// row whose gradient is zero is left alone, and has all the updates that it lacks one after another
// when somebody names it: the same numbers as if it had had them in time (kernels.h, adamw_rows),
// without a pass over the whole table in each step. Before anything else reads such a parameter
// (evaluation, checkpoints) all rows are brought up to date. Nothing here is collective.
#ifndef MOETRAIN_WORKER_OPTIMIZER_LAGGING_ROWS_H
#define MOETRAIN_WORKER_OPTIMIZER_LAGGING_ROWS_H

#include "model/model.h"
#include "worker/optimizer/optimizer_rule.h"

enum { LAGGING_HISTORY = 512 }; // updates that a row may lack

// A parameter with such rows.
typedef struct LaggingParam {
    int param;            // of the model
    Tensor updates;       // (rows) i32 that each has had of those in the history
    Tensor history;       // (LAGGING_HISTORY, UPDATE_HISTORY) f32
    Tensor w, copy, m, v; // (rows, D)
} LaggingParam;

typedef struct LaggingTables {
    RowKeeper keeper; // first: what the model's layers call
    Device *dev;
    LaggingParam *params;
    int count;
    int64_t updates; // in the history
    float beta1, beta2, eps;
    Tensor host_update; // (1, UPDATE_HISTORY) f32
} LaggingTables;

// Of a measured model. As the optimizer's: measured, then placed in its arenas.
void lagging_rows_init(LaggingTables *tables, const Model *model, const OptimizerConfig *config);
void lagging_rows_layout(LaggingTables *tables, const Model *model, Arena *arena, Arena *host);
void lagging_rows_free(LaggingTables *tables);
// Once everything has its place: m and v are the states of parameter i of the tables, each of as
// many elements as the parameter.
void lagging_rows_place(LaggingTables *tables, Model *model, int i, Tensor m, Tensor v);

// A step's update, of which every table then has the marked rows. `t` counts updates from 1.
void lagging_rows_update(LaggingTables *tables, Model *model, const UpdateGroups *groups,
                         const OptimizerConfig *config, double lr, int64_t t, double grad_scale);
// All rows.
void lagging_rows_catch_up(LaggingTables *tables);
// The parameters and states are others, all up to date: after a checkpoint was read.
void lagging_rows_forget(LaggingTables *tables);

#endif
