#include "worker/optimizer.h"

#include <math.h>
#include <string.h>

#include "kernels/heartbeat.h"

// Slots of `norms`: one for a dense parameter, one for each expert, over all ranks, of an expert
// parameter, none for what has no gradient.
static int64_t norm_slots(const Param *row) {
    if (row->run == RUN_RULE) return 0;
    return row->kind == PARAM_EXPERT ? row->shape[0] : 1;
}

// Segments of a run whose squares are summed apart: a dense parameter, or one of this rank's
// experts.
static int64_t segments_of(const Param *row) {
    return row->kind == PARAM_EXPERT ? row->count : 1;
}

static void layout(Optimizer *optimizer, const Model *model) {
    Arena *arena = &optimizer->arena, *host = &optimizer->host_arena;
    int64_t slots = 0, segments[PARAM_RUNS] = {0};
    for (int i = 0; i < model->params.count; i++) {
        const Param *row = &model->params.rows[i];
        slots += norm_slots(row);
        segments[row->run] += segments_of(row);
    }
    optimizer->m = param_set_layout(&model->params, arena, F32);
    optimizer->v = param_set_layout(&model->params, arena, F32);
    for (int run = 0; run < GRADIENT_RUNS; run++) {
        optimizer->decays[run] = arena_1d(arena, U8, model->params.elements[run] / PARAM_ALIGNMENT);
        optimizer->offsets[run] = arena_1d(arena, I64, segments[run] + 1);
        optimizer->squares[run] = arena_1d(arena, F64, segments[run]);
        optimizer->host_squares[run] = arena_mirror(host, optimizer->squares[run]);
    }
    optimizer->norms = arena_1d(host, F64, slots);
}

void optimizer_measure(Optimizer *optimizer, const Model *model) {
    *optimizer = (Optimizer){0};
    arena_measure(&optimizer->arena, "optimizer", model->work.dev);
    arena_measure(&optimizer->host_arena, "optimizer", NULL);
    layout(optimizer, model);
}

// Fills decays and offsets of one run from the table of parameters. Padding between parameters
// belongs to the one before it: it is zero.
static void describe_run(Optimizer *optimizer, const Model *model, ParamRun run) {
    Tensor decays = optimizer->decays[run], offsets = optimizer->offsets[run];
    Arena host;
    arena_measure(&host, "optimizer", NULL);
    arena_mirror(&host, decays);
    arena_mirror(&host, offsets);
    arena_allocate(&host);
    Tensor host_decays = arena_mirror(&host, decays), host_offsets = arena_mirror(&host, offsets);
    int64_t segment = 0;
    for (int i = 0; i < model->params.count; i++) {
        const Param *row = &model->params.rows[i];
        if (row->run != run) continue;
        int64_t count = segments_of(row);
        int64_t elements = tensor_elements(param_tensor(&model->params, model->values, i));
        for (int64_t s = 0; s < count; s++)
            tensor_i64(host_offsets)[segment++] = row->offset + elements / count * s;
        int64_t first = row->offset / PARAM_ALIGNMENT;
        int64_t end = (row->offset + elements + PARAM_ALIGNMENT - 1) / PARAM_ALIGNMENT;
        for (int64_t f = first; f < end; f++)
            tensor_u8(host_decays)[f] = param_groups[row->group].decay;
    }
    tensor_i64(host_offsets)[segment] = model->params.elements[run];
    device_upload(model->work.dev, decays, host_decays);
    device_upload(model->work.dev, offsets, host_offsets);
    arena_free(&host);
}

void optimizer_allocate(Optimizer *optimizer, const Model *model) {
    arena_allocate(&optimizer->arena);
    arena_allocate(&optimizer->host_arena);
    layout(optimizer, model);
    for (int run = 0; run < GRADIENT_RUNS; run++) describe_run(optimizer, model, (ParamRun)run);
}

void optimizer_free(Optimizer *optimizer) {
    arena_free(&optimizer->arena);
    arena_free(&optimizer->host_arena);
}

double optimizer_gradient_norm(Optimizer *optimizer, Model *model) {
    Work *work = &model->work;
    for (int run = 0; run < GRADIENT_RUNS; run++)
        sum_of_squares(work->dev, optimizer->squares[run], model->gradients.sum.run[run],
                       optimizer->offsets[run]);
    const double *squares[GRADIENT_RUNS];
    for (int run = 0; run < GRADIENT_RUNS; run++) {
        device_download(work->dev, optimizer->host_squares[run], optimizer->squares[run]);
        squares[run] = tensor_f64(optimizer->host_squares[run]);
    }
    double *norms = tensor_f64(optimizer->norms), total = 0;
    memset(norms, 0, tensor_bytes(optimizer->norms));
    int64_t slot = 0;
    for (int i = 0; i < model->params.count; i++) {
        const Param *row = &model->params.rows[i];
        if (row->run == RUN_RULE) continue;
        int64_t count = segments_of(row);
        memcpy(norms + slot + row->first, squares[row->run], (size_t)count * sizeof *norms);
        squares[row->run] += count;
        slot += norm_slots(row);
    }
    // Dense slots are equal on all ranks and enter the sum once; each expert's slot is zero on all
    // ranks but one, so that no order of summing changes a bit.
    if (work->shape.ep_rank != 0) {
        slot = 0;
        for (int i = 0; i < model->params.count; i++) {
            const Param *row = &model->params.rows[i];
            if (row->run == RUN_DENSE) norms[slot] = 0;
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
    rule.weight_decay = (float)config->weight_decay;
    for (int run = 0; run < GRADIENT_RUNS; run++) {
        // elements between two signs of life: the first step touches new memory
        enum { PIECE = 1 << 24 };
        int64_t elements = tensor_elements(model->values.run[run]);
        for (int64_t at = 0; at < elements; at += PIECE) {
            int64_t n = elements - at < PIECE ? elements - at : PIECE;
            watchdog_beat(NULL);
            Tensor copy = model->work.storage == F32
                              ? (Tensor){0}
                              : tensor_range(model->matrices.run[run], at, n);
            adamw_update(
                model->work.dev, tensor_range(model->values.run[run], at, n), copy,
                tensor_range(model->gradients.sum.run[run], at, n),
                tensor_range(optimizer->m.run[run], at, n),
                tensor_range(optimizer->v.run[run], at, n),
                tensor_range(optimizer->decays[run], at / PARAM_ALIGNMENT, n / PARAM_ALIGNMENT),
                rule);
        }
    }
}
