#include "worker/optimizer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/heartbeat.h"

const OptimizerChoice OPTIMIZERS[] = {
    [OPTIMIZER_ADAMW] = {{"adamw", "Adam with decoupled weight decay"}, &ADAMW},
};
const ChoiceTable OPTIMIZER_CHOICES = CHOICE_TABLE(OPTIMIZERS);

// ---- rules and states ---------------------------------------------------------------------------

// The rule of a group: one for all, as configured.
static const OptimizerRule *rule_of(const OptimizerConfig *config, uint8_t group) {
    (void)group;
    return OPTIMIZERS[config->kind].rule;
}

static int find_state(const Optimizer *optimizer, const char *name) {
    for (int i = 0; i < optimizer->state_count; i++)
        if (strcmp(optimizer->states[i].name, name) == 0) return i;
    return -1;
}

static void add_states(Optimizer *optimizer, const OptimizerRule *rule) {
    for (int i = 0; rule->states[i]; i++) {
        if (find_state(optimizer, rule->states[i]) >= 0) continue;
        CHECK(optimizer->state_count < OPTIMIZER_STATES_MAX, "more than %d states",
              (int)OPTIMIZER_STATES_MAX);
        optimizer->states[optimizer->state_count++].name = rule->states[i];
    }
}

int optimizer_state_count(const OptimizerConfig *config) {
    Optimizer optimizer = {0};
    for (int group = 0; group < PARAM_GROUPS; group++)
        add_states(&optimizer, rule_of(config, (uint8_t)group));
    return optimizer.state_count;
}

bool optimizer_has_state(const Optimizer *optimizer, int state, const Param *row) {
    if (row->run >= GRADIENT_RUNS) return false;
    const OptimizerRule *rule = rule_of(&optimizer->config, row->group);
    for (int i = 0; rule->states[i]; i++)
        if (strcmp(rule->states[i], optimizer->states[state].name) == 0) return true;
    return false;
}

// Ranges of one run with the same rule, as long as they can be. Padding belongs to the parameter
// before it.
static void add_ranges(Optimizer *optimizer, const ParamTable *table, ParamRun run) {
    UpdateRange *last = NULL;
    for (int i = 0; i < table->count; i++) {
        const Param *row = &table->rows[i];
        if (row->run != run) continue;
        const OptimizerRule *rule = rule_of(&optimizer->config, row->group);
        if (last && last->rule == rule) continue;
        if (last) last->elements = row->offset - last->first;
        last = &optimizer->ranges[optimizer->range_count++];
        *last = (UpdateRange){.rule = rule, .run = run, .first = row->offset};
    }
    if (last) last->elements = table->elements[run] - last->first;
}

// ---- layout -------------------------------------------------------------------------------------

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
    for (int i = 0; i < optimizer->state_count; i++)
        optimizer->states[i].set = param_set_layout(&model->params, arena, F32);
    for (int run = 0; run < GRADIENT_RUNS; run++) {
        optimizer->groups[run] = arena_1d(arena, U8, model->params.elements[run] / PARAM_ALIGNMENT);
        optimizer->offsets[run] = arena_1d(arena, I64, segments[run] + 1);
        optimizer->squares[run] = arena_1d(arena, F64, segments[run]);
        optimizer->host_squares[run] = arena_mirror(host, optimizer->squares[run]);
    }
    optimizer->norms = arena_1d(host, F64, slots);
}

void optimizer_measure(Optimizer *optimizer, const Model *model, const OptimizerConfig *config) {
    *optimizer = (Optimizer){.config = *config};
    for (int group = 0; group < PARAM_GROUPS; group++)
        add_states(optimizer, rule_of(config, (uint8_t)group));
    optimizer->ranges = calloc((size_t)model->params.count + 1, sizeof *optimizer->ranges);
    CHECK_MEMORY(optimizer->ranges, "no memory for ranges of %d parameters", model->params.count);
    for (int run = 0; run < GRADIENT_RUNS; run++)
        add_ranges(optimizer, &model->params, (ParamRun)run);
    arena_measure(&optimizer->arena, "optimizer", model->work.dev);
    arena_measure(&optimizer->host_arena, "optimizer", NULL);
    layout(optimizer, model);
}

// Fills groups and offsets of one run from the table of parameters. Padding between parameters
// belongs to the one before it: it is zero.
static void describe_run(Optimizer *optimizer, const Model *model, ParamRun run) {
    Tensor groups = optimizer->groups[run], offsets = optimizer->offsets[run];
    Arena host;
    arena_measure(&host, "optimizer", NULL);
    arena_mirror(&host, groups);
    arena_mirror(&host, offsets);
    arena_allocate(&host);
    Tensor host_groups = arena_mirror(&host, groups), host_offsets = arena_mirror(&host, offsets);
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
        for (int64_t f = first; f < end; f++) tensor_u8(host_groups)[f] = row->group;
    }
    tensor_i64(host_offsets)[segment] = model->params.elements[run];
    device_upload(model->work.dev, groups, host_groups);
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
    free(optimizer->ranges);
    *optimizer = (Optimizer){0};
}

// ---- a step -------------------------------------------------------------------------------------

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

// The part of a set that a range or a piece of it takes up.
static Tensor piece_of(ParamSet set, const UpdateRange *piece) {
    return tensor_range(set.run[piece->run], piece->first, piece->elements);
}

void optimizer_update(Optimizer *optimizer, Model *model, double lr, int64_t t, double grad_scale) {
    // elements between two signs of life: the first step touches new memory
    enum { PIECE = 1 << 24 };
    OptimizerUpdate update = {.dev = model->work.dev,
                              .config = &optimizer->config,
                              .lr = lr,
                              .grad_scale = grad_scale,
                              .t = t};
    for (int i = 0; i < optimizer->range_count; i++) {
        UpdateRange piece = optimizer->ranges[i];
        int64_t end = piece.first + piece.elements;
        for (; piece.first < end; piece.first += piece.elements) {
            piece.elements = end - piece.first < PIECE ? end - piece.first : PIECE;
            watchdog_beat(NULL);
            update.values = piece_of(model->values, &piece);
            if (model->work.storage != F32) update.copy = piece_of(model->matrices, &piece);
            update.gradients = piece_of(model->gradients.sum, &piece);
            for (int s = 0; piece.rule->states[s]; s++) {
                int state = find_state(optimizer, piece.rule->states[s]);
                update.states[s] = piece_of(optimizer->states[state].set, &piece);
            }
            update.groups =
                tensor_range(optimizer->groups[piece.run], piece.first / PARAM_ALIGNMENT,
                             piece.elements / PARAM_ALIGNMENT);
            piece.rule->update(&update);
        }
    }
}
