#include "worker/optimizer.h"

#include <math.h>
#include <string.h>

#include "kernels/heartbeat.h"

// Slots of `norms`: one for a dense parameter, one for each expert, over all ranks, of an expert
// parameter.
static int64_t norm_slots(const Param *row) {
    return row->kind == PARAM_EXPERT ? row->shape[0] : 1;
}

// Segments of a run whose squares are summed apart: a dense parameter, or one of this rank's
// experts.
static int64_t segments_of(const Param *row) {
    return row->kind == PARAM_EXPERT ? row->count : 1;
}

static void layout(Optimizer *optimizer, const Model *model) {
    Arena *arena = &optimizer->arena, *host = &optimizer->host_arena;
    int64_t slots = 0, segments[2] = {0, 0};
    for (int i = 0; i < model->params.count; i++) {
        const Param *row = &model->params.rows[i];
        slots += norm_slots(row);
        segments[row->kind] += segments_of(row);
    }
    optimizer->m = param_set_layout(&model->params, arena, F32);
    optimizer->v = param_set_layout(&model->params, arena, F32);
    for (int kind = PARAM_DENSE; kind <= PARAM_EXPERT; kind++) {
        optimizer->decays[kind] =
            arena_1d(arena, U8, model->params.elements[kind] / PARAM_ALIGNMENT);
        optimizer->offsets[kind] = arena_1d(arena, I64, segments[kind] + 1);
        optimizer->squares[kind] = arena_1d(arena, F64, segments[kind]);
        optimizer->host_squares[kind] = arena_mirror(host, optimizer->squares[kind]);
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
static void describe_run(Optimizer *optimizer, const Model *model, ParamKind kind) {
    Tensor decays = optimizer->decays[kind], offsets = optimizer->offsets[kind];
    Arena host;
    arena_measure(&host, "optimizer", NULL);
    arena_mirror(&host, decays);
    arena_mirror(&host, offsets);
    arena_allocate(&host);
    Tensor host_decays = arena_mirror(&host, decays), host_offsets = arena_mirror(&host, offsets);
    int64_t segment = 0;
    for (int i = 0; i < model->params.count; i++) {
        const Param *row = &model->params.rows[i];
        if (row->kind != kind) continue;
        int64_t count = segments_of(row);
        int64_t elements = tensor_elements(param_tensor(&model->params, model->values, i));
        for (int64_t s = 0; s < count; s++)
            tensor_i64(host_offsets)[segment++] = row->offset + elements / count * s;
        int64_t first = row->offset / PARAM_ALIGNMENT;
        int64_t end = (row->offset + elements + PARAM_ALIGNMENT - 1) / PARAM_ALIGNMENT;
        for (int64_t f = first; f < end; f++) tensor_u8(host_decays)[f] = row->decay;
    }
    tensor_i64(host_offsets)[segment] = model->params.elements[kind];
    device_upload(model->work.dev, decays, host_decays);
    device_upload(model->work.dev, offsets, host_offsets);
    arena_free(&host);
}

void optimizer_allocate(Optimizer *optimizer, const Model *model) {
    arena_allocate(&optimizer->arena);
    arena_allocate(&optimizer->host_arena);
    layout(optimizer, model);
    describe_run(optimizer, model, PARAM_DENSE);
    describe_run(optimizer, model, PARAM_EXPERT);
}

void optimizer_free(Optimizer *optimizer) {
    arena_free(&optimizer->arena);
    arena_free(&optimizer->host_arena);
}

double optimizer_gradient_norm(Optimizer *optimizer, Model *model) {
    Work *work = &model->work;
    for (int kind = PARAM_DENSE; kind <= PARAM_EXPERT; kind++)
        sum_of_squares(work->dev, optimizer->squares[kind], model->accumulated.run[kind],
                       optimizer->offsets[kind]);
    const double *squares[2];
    for (int kind = PARAM_DENSE; kind <= PARAM_EXPERT; kind++) {
        device_download(work->dev, optimizer->host_squares[kind], optimizer->squares[kind]);
        squares[kind] = tensor_f64(optimizer->host_squares[kind]);
    }
    double *norms = tensor_f64(optimizer->norms), total = 0;
    memset(norms, 0, tensor_bytes(optimizer->norms));
    int64_t slot = 0;
    for (int i = 0; i < model->params.count; i++) {
        const Param *row = &model->params.rows[i];
        int64_t count = segments_of(row);
        memcpy(norms + slot + row->first, squares[row->kind], (size_t)count * sizeof *norms);
        squares[row->kind] += count;
        slot += norm_slots(row);
    }
    // Dense slots are equal on all ranks and enter the sum once; each expert's slot is zero on all
    // ranks but one, so that no order of summing changes a bit.
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
    rule.weight_decay = (float)config->weight_decay;
    for (int kind = PARAM_DENSE; kind <= PARAM_EXPERT; kind++) {
        // elements between two signs of life: the first step touches new memory
        enum { PIECE = 1 << 24 };
        int64_t elements = tensor_elements(model->values.run[kind]);
        for (int64_t at = 0; at < elements; at += PIECE) {
            int64_t n = elements - at < PIECE ? elements - at : PIECE;
            watchdog_beat(NULL);
            Tensor copy = model->work.storage == F32
                              ? (Tensor){0}
                              : tensor_range(model->matrices.run[kind], at, n);
            adamw_update(
                model->work.dev, tensor_range(model->values.run[kind], at, n), copy,
                tensor_range(model->accumulated.run[kind], at, n),
                tensor_range(optimizer->m.run[kind], at, n),
                tensor_range(optimizer->v.run[kind], at, n),
                tensor_range(optimizer->decays[kind], at / PARAM_ALIGNMENT, n / PARAM_ALIGNMENT),
                rule);
        }
    }
}
