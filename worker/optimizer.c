#include "worker/optimizer.h"

#include <math.h>
#include <string.h>

// Slots of `norms`: one for a dense parameter, one for each expert, over all ranks, of an expert parameter.
static int64_t norm_slots(const Param *row) {
    return row->kind == PARAM_EXPERT ? row->shape[0] : 1;
}

static void layout(Optimizer *optimizer, const Model *model) {
    int64_t slots = 0;
    for (int i = 0; i < model->params.count; i++) slots += norm_slots(&model->params.rows[i]);
    optimizer->m = param_set_layout(&model->params, &optimizer->arena);
    optimizer->v = param_set_layout(&model->params, &optimizer->arena);
    optimizer->norms = arena_1d(&optimizer->arena, F64, slots);
}

void optimizer_measure(Optimizer *optimizer, const Model *model) {
    *optimizer = (Optimizer){0};
    arena_measure(&optimizer->arena, "optimizer");
    layout(optimizer, model);
}

void optimizer_allocate(Optimizer *optimizer, const Model *model) {
    arena_allocate(&optimizer->arena);
    layout(optimizer, model);
}

void optimizer_free(Optimizer *optimizer) {
    arena_free(&optimizer->arena);
}

double optimizer_gradient_norm(Optimizer *optimizer, Model *model) {
    Work *work = &model->work;
    double *norms = tensor_f64(optimizer->norms), total = 0;
    memset(norms, 0, tensor_bytes(optimizer->norms));
    int64_t slot = 0;
    for (int i = 0; i < model->params.count; i++) {
        const Param *row = &model->params.rows[i];
        Tensor g = param_tensor(&model->params, model->accumulated, i);
        int64_t rows = row->kind == PARAM_EXPERT ? row->count : 1;
        Tensor sums = tensor_1d(norms + slot + row->first, F64, rows);
        sum_of_squares(work->dev, sums,
                       tensor_reshape_2d(g, rows, rows ? tensor_elements(g) / rows : 0));
        slot += norm_slots(row);
    }
    // Dense slots are equal on all ranks and enter the sum once; each expert's slot is zero on all ranks but one, so
    // that no order of summing changes a bit.
    if (work->ep_rank != 0) {
        slot = 0;
        for (int i = 0; i < model->params.count; i++) {
            const Param *row = &model->params.rows[i];
            if (row->kind == PARAM_DENSE) norms[slot] = 0;
            slot += norm_slots(row);
        }
    }
    all_reduce_sum(work->groups.expert_parallel, optimizer->norms, REDUCE_ANY_ORDER, (Tensor){0},
                   TRAFFIC_STATISTICS);
    for (int64_t i = 0; i < optimizer->norms.shape[0]; i++) total += norms[i];
    return sqrt(total);
}

void optimizer_update(Optimizer *optimizer, Model *model, const OptimizerConfig *config, double lr,
                      int64_t t, double grad_scale) {
    AdamW rule = {
        .lr = (float)lr,
        .beta1 = (float)config->beta1,
        .beta2 = (float)config->beta2,
        .eps = (float)config->eps,
        .bias_correction1 = (float)(1 - pow(config->beta1, (double)t)),
        .bias_correction2 = (float)(1 - pow(config->beta2, (double)t)),
        .grad_scale = (float)grad_scale,
    };
    for (int i = 0; i < model->params.count; i++) {
        rule.weight_decay = model->params.rows[i].decay ? (float)config->weight_decay : 0;
        adamw_update(model->work.dev, param_tensor(&model->params, model->values, i),
                     param_tensor(&model->params, model->accumulated, i),
                     param_tensor(&model->params, optimizer->m, i),
                     param_tensor(&model->params, optimizer->v, i), rule);
    }
}
