#include "worker/optimizer/lagging_rows.h"

#include <math.h>
#include <stdlib.h>

// Whether a parameter is updated so.
static bool lags(const Model *model, const OptimizerConfig *config, int param) {
    return config->kind == OPTIMIZER_ADAMW && config->ema == 0 &&
           model->gradients.sum.marks.rank > 0 && model->params.rows[param].few_rows;
}

static void catch_up_named(RowKeeper *keeper, int param, Tensor listed);

void lagging_rows_init(LaggingTables *tables, const Model *model, const OptimizerConfig *config) {
    *tables = (LaggingTables){.keeper = {catch_up_named},
                              .dev = model->work.dev,
                              .beta1 = (float)config->beta1,
                              .beta2 = (float)config->beta2,
                              .eps = (float)config->eps};
    tables->params = calloc((size_t)model->params.count + 1, sizeof *tables->params);
    CHECK_MEMORY(tables->params, "no memory for a list of %d parameters", model->params.count);
    for (int i = 0; i < model->params.count; i++)
        if (lags(model, config, i)) tables->params[tables->count++].param = i;
}

void lagging_rows_layout(LaggingTables *tables, const Model *model, Arena *arena, Arena *host) {
    for (int i = 0; i < tables->count; i++) {
        LaggingParam *lagging = &tables->params[i];
        lagging->updates = arena_1d(arena, I32, model->params.rows[lagging->param].count);
        lagging->history = arena_2d(arena, F32, LAGGING_HISTORY, UPDATE_HISTORY);
    }
    tables->host_update = arena_2d(host, F32, 1, UPDATE_HISTORY);
}

void lagging_rows_free(LaggingTables *tables) {
    free(tables->params);
    *tables = (LaggingTables){0};
}

void lagging_rows_place(LaggingTables *tables, Model *model, int i, Tensor m, Tensor v) {
    LaggingParam *lagging = &tables->params[i];
    const Param *row = &model->params.rows[lagging->param];
    lagging->w = param_tensor(&model->params, model->values, lagging->param);
    if (model->work.storage != F32)
        lagging->copy = param_tensor(&model->params, model->matrices, lagging->param);
    lagging->m = tensor_reshape_2d(m, row->count, row->shape[1]);
    lagging->v = tensor_reshape_2d(v, row->count, row->shape[1]);
    model->work.keeper = &tables->keeper;
}

static LaggingRows rows_of(const LaggingTables *tables, const LaggingParam *lagging) {
    return (LaggingRows){
        .updates = lagging->updates, .history = lagging->history, .count = tables->updates};
}

static void update_rows(const LaggingTables *tables, const LaggingParam *lagging, Tensor gradient,
                        LaggingRows rows, double grad_scale) {
    AdamW rule = {.beta1 = tables->beta1,
                  .beta2 = tables->beta2,
                  .eps = tables->eps,
                  .grad_scale = (float)grad_scale};
    if (tables->updates > 0)
        adamw_rows(tables->dev, lagging->w, lagging->copy, gradient, lagging->m, lagging->v, rows,
                   rule);
}

static void catch_up_named(RowKeeper *keeper, int param, Tensor listed) {
    LaggingTables *tables = (LaggingTables *)keeper;
    for (int i = 0; i < tables->count; i++) {
        if (tables->params[i].param != param) continue;
        LaggingRows rows = rows_of(tables, &tables->params[i]);
        rows.listed = listed;
        update_rows(tables, &tables->params[i], (Tensor){0}, rows, 1);
    }
}

void lagging_rows_forget(LaggingTables *tables) {
    tables->updates = 0;
    for (int i = 0; i < tables->count; i++) fill_zero(tables->dev, tables->params[i].updates);
}

void lagging_rows_catch_up(LaggingTables *tables) {
    for (int i = 0; i < tables->count; i++)
        update_rows(tables, &tables->params[i], (Tensor){0}, rows_of(tables, &tables->params[i]),
                    1);
    if (tables->updates > 0) lagging_rows_forget(tables);
}

// As the rule of all other parameters has them (optimizer_adamw.c).
static void write_update(LaggingTables *tables, const LaggingParam *lagging,
                         const UpdateGroups *groups, double lr, double beta1_correction,
                         double beta2_correction) {
    const UpdateGroup *group = &groups->groups[groups->row[lagging->param]];
    float *update = tensor_f32(tables->host_update);
    update[0] = (float)(lr * group->lr_scale);
    update[1] = (float)group->weight_decay;
    update[2] = 1.0f / (float)beta1_correction;
    update[3] = 1.0f / (float)beta2_correction;
    device_upload(tables->dev, tensor_rows(lagging->history, tables->updates, 1),
                  tables->host_update);
}

void lagging_rows_update(LaggingTables *tables, Model *model, const UpdateGroups *groups,
                         const OptimizerConfig *config, double lr, int64_t t, double grad_scale) {
    if (tables->count == 0) return;
    if (tables->updates == LAGGING_HISTORY) lagging_rows_catch_up(tables);
    for (int i = 0; i < tables->count; i++)
        write_update(tables, &tables->params[i], groups, lr, 1 - pow(config->beta1, (double)t),
                     1 - pow(config->beta2, (double)t));
    tables->updates++;
    for (int i = 0; i < tables->count; i++) {
        const LaggingParam *lagging = &tables->params[i];
        LaggingRows rows = rows_of(tables, lagging);
        rows.marks = param_marks(&model->params, model->gradients.sum, lagging->param);
        Tensor gradient = param_tensor(&model->params, model->gradients.sum, lagging->param);
        update_rows(tables, lagging, gradient, rows, grad_scale);
    }
}
