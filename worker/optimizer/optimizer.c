#include "worker/optimizer/optimizer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/heartbeat.h"
#include "kernels/integers.h"

const OptimizerChoice OPTIMIZERS[] = {
    [OPTIMIZER_ADAMW] = {{"adamw", "Adam with decoupled weight decay (arXiv:1711.05101)"}, &ADAMW},
    [OPTIMIZER_SGD] = {{"sgd", "gradient descent with momentum, as torch.optim.SGD"}, &SGD},
    [OPTIMIZER_LION] = {{"lion", "the sign of an interpolated momentum (arXiv:2302.06675)"}, &LION},
    [OPTIMIZER_MUON] = {{"muon", "orthogonalised momentum of hidden matrices (Jordan 2024, "
                                 "arXiv:2502.16982); the rest by AdamW"},
                        &MUON},
};
const ChoiceTable OPTIMIZER_CHOICES = CHOICE_TABLE(OPTIMIZERS);

// ---- rules and states ---------------------------------------------------------------------------

static const OptimizerRule *rule_of(const OptimizerConfig *config, uint8_t group) {
    const OptimizerRule *rule = OPTIMIZERS[config->kind].rule;
    return rule->others && !param_groups[group].matrices ? rule->others : rule;
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

bool optimizer_has_state(const Optimizer *optimizer, int state, int param) {
    return optimizer->states[state].has[param];
}

static const char AVERAGE[] = "ema";

static bool keeps(const OptimizerConfig *config, const Param *row, const char *name) {
    if (row->run >= GRADIENT_RUNS) return false;
    if (strcmp(name, AVERAGE) == 0) return true;
    const OptimizerRule *rule = rule_of(config, row->group);
    for (int i = 0; rule->states[i]; i++)
        if (strcmp(rule->states[i], name) == 0) return true;
    return false;
}

// Finds which parameters have each state, and where in its runs.
static void place_states(Optimizer *optimizer, const ParamTable *table) {
    for (int s = 0; s < optimizer->state_count; s++) {
        OptimizerState *state = &optimizer->states[s];
        state->has = calloc((size_t)table->count + 1, sizeof *state->has);
        CHECK_MEMORY(state->has, "no memory for states of %d parameters", table->count);
        for (int i = 0; i < table->count; i++)
            state->has[i] = keeps(&optimizer->config, &table->rows[i], state->name);
        state->params = param_table_selection(table, state->has);
    }
}

// Ranges of one run with the same rule, as long as they can be, or one for each parameter where the
// rule is for matrices. Padding belongs to the parameter before it. Parameters that lag are in
// none.
static void add_ranges(Optimizer *optimizer, const ParamTable *table, const bool *lags,
                       ParamRun run) {
    UpdateRange *last = NULL;
    for (int i = 0; i < table->count; i++) {
        const Param *row = &table->rows[i];
        if (row->run != run) continue;
        const OptimizerRule *rule = rule_of(&optimizer->config, row->group);
        if (last && last->rule == rule && !rule->others && !row->few_rows) continue;
        if (last) last->elements = row->offset - last->first;
        last = NULL;
        if (lags[i]) continue;
        last = &optimizer->ranges[optimizer->range_count++];
        *last = (UpdateRange){.rule = rule, .run = run, .first = row->offset};
        for (int s = 0; rule->states[s]; s++) {
            int state = find_state(optimizer, rule->states[s]);
            last->state_first[s] = optimizer->states[state].params.rows[i].offset;
        }
        if (rule->others) {
            last->matrices = &optimizer->matrices[i];
            *last->matrices = hidden_matrices_of(row);
        }
    }
    if (last) last->elements = table->elements[run] - last->first;
}

// ---- layout -------------------------------------------------------------------------------------

// Slots of `norms`: none for what has no gradient.
static int64_t norm_slots(const Param *row) {
    return row->run == RUN_RULE ? 0 : param_segments(row);
}

static void layout_matrices(Optimizer *optimizer) {
    int64_t largest = 0, gram = 0;
    for (int i = 0; i < optimizer->range_count; i++) {
        const UpdateRange *range = &optimizer->ranges[i];
        if (!range->matrices) continue;
        hidden_matrices_layout(range->matrices, &optimizer->arena, &optimizer->host_arena);
        largest = larger(largest, range->elements);
        gram = larger(gram, hidden_matrices_gram_elements(range->matrices));
    }
    for (int i = 0; i < 2 && largest > 0; i++) {
        optimizer->scratch[i] = arena_1d(&optimizer->arena, F32, largest);
        optimizer->gram[i] = arena_1d(&optimizer->arena, F32, gram);
    }
}

static void layout(Optimizer *optimizer, const Model *model) {
    Arena *arena = &optimizer->arena, *host = &optimizer->host_arena;
    int64_t slots = 0, segments[PARAM_RUNS] = {0};
    for (int i = 0; i < model->params.count; i++) {
        const Param *row = &model->params.rows[i];
        slots += norm_slots(row);
        segments[row->run] += param_local_segments(row);
    }
    for (int i = 0; i < optimizer->state_count; i++)
        optimizer->states[i].set = param_set_layout(&optimizer->states[i].params, arena, F32);
    for (int run = 0; run < GRADIENT_RUNS; run++) {
        optimizer->groups[run] = arena_1d(arena, U8, model->params.elements[run] / PARAM_ALIGNMENT);
        optimizer->offsets[run] = arena_1d(arena, I64, segments[run] + 1);
        optimizer->squares[run] = arena_1d(arena, F64, segments[run]);
        optimizer->host_squares[run] = arena_mirror(host, optimizer->squares[run]);
    }
    optimizer->norms = arena_1d(host, F64, slots);
    if (model->params.marks > 0) optimizer->marks = arena_1d(arena, I32, segments[RUN_EXPERT]);
    lagging_rows_layout(&optimizer->lagging, model, arena, host);
    layout_matrices(optimizer);
}

void optimizer_measure(Optimizer *optimizer, const Model *model, const OptimizerConfig *config) {
    *optimizer = (Optimizer){.config = *config, .average = -1};
    for (int group = 0; group < PARAM_GROUPS; group++)
        add_states(optimizer, rule_of(config, (uint8_t)group));
    if (config->ema > 0) {
        CHECK(optimizer->state_count < OPTIMIZER_STATES_MAX, "no place for an average");
        optimizer->average = optimizer->state_count++;
        optimizer->states[optimizer->average].name = AVERAGE;
    }
    optimizer->ranges = calloc((size_t)model->params.count + 1, sizeof *optimizer->ranges);
    CHECK_MEMORY(optimizer->ranges, "no memory for ranges of %d parameters", model->params.count);
    optimizer->matrices = calloc((size_t)model->params.count + 1, sizeof *optimizer->matrices);
    CHECK_MEMORY(optimizer->matrices, "no memory for matrices of %d parameters",
                 model->params.count);
    update_groups_init(&optimizer->table, &model->params, config);
    place_states(optimizer, &model->params);
    lagging_rows_init(&optimizer->lagging, model, config);
    bool *lags = calloc((size_t)model->params.count + 1, sizeof *lags);
    CHECK_MEMORY(lags, "no memory for a list of %d parameters", model->params.count);
    for (int i = 0; i < optimizer->lagging.count; i++)
        lags[optimizer->lagging.params[i].param] = true;
    for (int run = 0; run < GRADIENT_RUNS; run++)
        add_ranges(optimizer, &model->params, lags, (ParamRun)run);
    free(lags);
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
        int64_t count = param_local_segments(row);
        int64_t elements = tensor_elements(param_tensor(&model->params, model->values, i));
        for (int64_t s = 0; s < count; s++)
            tensor_i64(host_offsets)[segment++] = row->offset + elements / count * s;
        int64_t first = row->offset / PARAM_ALIGNMENT;
        int64_t end = (row->offset + elements + PARAM_ALIGNMENT - 1) / PARAM_ALIGNMENT;
        for (int64_t f = first; f < end; f++) tensor_u8(host_groups)[f] = optimizer->table.row[i];
    }
    tensor_i64(host_offsets)[segment] = model->params.elements[run];
    device_upload(model->work.dev, groups, host_groups);
    device_upload(model->work.dev, offsets, host_offsets);
    arena_free(&host);
}

// The tables of parameters that lag: their moments are the states of the only rule.
static void place_lagging(Optimizer *optimizer, Model *model) {
    for (int i = 0; i < optimizer->lagging.count; i++) {
        int param = optimizer->lagging.params[i].param;
        Tensor moments[2];
        for (int s = 0; s < 2; s++)
            moments[s] =
                param_tensor(&optimizer->states[s].params, optimizer->states[s].set, param);
        lagging_rows_place(&optimizer->lagging, model, i, moments[0], moments[1]);
    }
}

// The segments of RUN_EXPERT that are summed at once: those of parameters of few rows are not.
static void mark_whole(Optimizer *optimizer, const Model *model) {
    if (optimizer->marks.rank == 0) return;
    Arena host;
    arena_measure(&host, "optimizer", NULL);
    arena_mirror(&host, optimizer->marks);
    arena_allocate(&host);
    Tensor marks = arena_mirror(&host, optimizer->marks);
    int64_t segment = 0;
    for (int i = 0; i < model->params.count; i++) {
        const Param *row = &model->params.rows[i];
        if (row->run != RUN_EXPERT) continue;
        for (int64_t s = 0; s < param_local_segments(row); s++)
            tensor_i32(marks)[segment++] = !row->few_rows;
    }
    device_upload(model->work.dev, optimizer->marks, marks);
    arena_free(&host);
}

void optimizer_allocate(Optimizer *optimizer, Model *model) {
    arena_allocate(&optimizer->arena);
    arena_allocate(&optimizer->host_arena);
    layout(optimizer, model);
    for (int run = 0; run < GRADIENT_RUNS; run++) describe_run(optimizer, model, (ParamRun)run);
    place_lagging(optimizer, model);
    mark_whole(optimizer, model);
    for (int i = 0; i < optimizer->range_count; i++)
        if (optimizer->ranges[i].matrices)
            hidden_matrices_fill(optimizer->ranges[i].matrices, model->work.dev);
}

void optimizer_free(Optimizer *optimizer) {
    arena_free(&optimizer->arena);
    arena_free(&optimizer->host_arena);
    for (int i = 0; i < optimizer->state_count; i++) {
        param_table_free(&optimizer->states[i].params);
        free(optimizer->states[i].has);
    }
    free(optimizer->ranges);
    free(optimizer->matrices);
    lagging_rows_free(&optimizer->lagging);
    update_groups_free(&optimizer->table);
    *optimizer = (Optimizer){0};
}

// ---- a step -------------------------------------------------------------------------------------

// Every rank's norm, or that of a rank whose own copy of a summed gradient is another: what is
// decided by it is decided alike. Collective over the ranks that hold the same experts.
static double agree_on_norm(const Work *work, double norm) {
    if (work->shape.expert_replicas <= 1) return norm;
    double both[2] = {isnan(norm), isnan(norm) ? 0 : norm};
    all_reduce_max(work->groups.expert_replicas, tensor_1d(both, F64, 2), TRAFFIC_STATISTICS);
    return both[0] > 0 ? NAN : both[1];
}

// The squares of parameters of few rows, of which only those that are not zero are read.
static void sum_few_rows(Optimizer *optimizer, const Model *model) {
    int64_t segment = 0;
    for (int i = 0; i < model->params.count; i++) {
        const Param *row = &model->params.rows[i];
        if (row->run != RUN_EXPERT) continue;
        int64_t count = param_local_segments(row);
        if (row->few_rows)
            sum_of_row_squares(model->work.dev,
                               tensor_range(optimizer->squares[RUN_EXPERT], segment, count),
                               param_tensor(&model->params, model->gradients.sum, i),
                               param_marks(&model->params, model->gradients.sum, i));
        segment += count;
    }
}

double optimizer_gradient_norm(Optimizer *optimizer, Model *model) {
    Work *work = &model->work;
    for (int run = 0; run < GRADIENT_RUNS; run++)
        sum_of_squares(work->dev, optimizer->squares[run], model->gradients.sum.run[run],
                       optimizer->offsets[run], run == RUN_EXPERT ? optimizer->marks : (Tensor){0});
    sum_few_rows(optimizer, model);
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
        int64_t count = param_local_segments(row);
        for (int64_t s = 0; s < count; s++)
            norms[slot + param_global_segment(row, s)] = squares[row->run][s];
        squares[row->run] += count;
        slot += norm_slots(row);
    }
    // Dense slots are equal on all ranks and enter the sum once, but where this rank's own copy is
    // not finite; each expert's slot is zero on all ranks but one, so that no order of summing
    // changes a bit.
    if (work->shape.ep_rank != 0) {
        slot = 0;
        for (int i = 0; i < model->params.count; i++) {
            const Param *row = &model->params.rows[i];
            if (row->run == RUN_DENSE && isfinite(norms[slot])) norms[slot] = 0;
            slot += norm_slots(row);
        }
    }
    all_reduce_sum(work->groups.expert_parallel, optimizer->norms, REDUCE_ANY_ORDER, (Tensor){0},
                   TRAFFIC_STATISTICS);
    for (int64_t i = 0; i < optimizer->norms.shape[0]; i++) total += norms[i];
    return agree_on_norm(work, sqrt(total));
}

// The part of a set that a range or a piece of it takes up.
static Tensor piece_of(ParamSet set, const UpdateRange *piece) {
    return tensor_range(set.run[piece->run], piece->first, piece->elements);
}

void update_rates(const OptimizerUpdate *update, float lr[UPDATE_GROUPS],
                  float weight_decay[UPDATE_GROUPS]) {
    memset(lr, 0, UPDATE_GROUPS * sizeof *lr);
    memset(weight_decay, 0, UPDATE_GROUPS * sizeof *weight_decay);
    for (int group = 0; group < update->table->count; group++) {
        lr[group] = (float)(update->lr * update->table->groups[group].lr_scale);
        weight_decay[group] = (float)update->table->groups[group].weight_decay;
    }
}

void optimizer_update(Optimizer *optimizer, Model *model, double lr, int64_t t, double grad_scale) {
    // elements between two signs of life: the first step touches new memory
    enum { PIECE = 1 << 24 };
    OptimizerUpdate update = {.dev = model->work.dev,
                              .config = &optimizer->config,
                              .table = &optimizer->table,
                              .lr = lr,
                              .grad_scale = grad_scale,
                              .t = t};
    for (int i = 0; i < optimizer->range_count; i++) {
        UpdateRange piece = optimizer->ranges[i];
        int64_t begin = piece.first, end = begin + piece.elements;
        int64_t most = piece.matrices ? piece.elements : PIECE;
        update.matrices = piece.matrices;
        for (int k = 0; k < 2 && piece.matrices; k++) {
            update.scratch[k] = tensor_range(optimizer->scratch[k], 0, piece.elements);
            update.gram[k] = optimizer->gram[k];
        }
        for (; piece.first < end; piece.first += piece.elements) {
            piece.elements = smaller(end - piece.first, most);
            watchdog_beat(NULL);
            update.values = piece_of(model->values, &piece);
            if (model->work.storage != F32) update.copy = piece_of(model->matrices, &piece);
            update.gradients = piece_of(model->gradients.sum, &piece);
            for (int s = 0; piece.rule->states[s]; s++) {
                int state = find_state(optimizer, piece.rule->states[s]);
                update.states[s] =
                    tensor_range(optimizer->states[state].set.run[piece.run],
                                 piece.state_first[s] + piece.first - begin, piece.elements);
            }
            update.groups =
                tensor_range(optimizer->groups[piece.run], piece.first / PARAM_ALIGNMENT,
                             piece.elements / PARAM_ALIGNMENT);
            piece.rule->update(&update);
        }
    }
    lagging_rows_update(&optimizer->lagging, model, &optimizer->table, &optimizer->config, lr, t,
                        grad_scale);
}

void optimizer_catch_up(Optimizer *optimizer) {
    lagging_rows_catch_up(&optimizer->lagging);
}

void optimizer_forget_updates(Optimizer *optimizer) {
    lagging_rows_forget(&optimizer->lagging);
}

// ---- the moving average -------------------------------------------------------------------------

void optimizer_begin_average(Optimizer *optimizer, Model *model) {
    for (int run = 0; run < GRADIENT_RUNS && optimizer->average >= 0; run++)
        copy(model->work.dev, optimizer->states[optimizer->average].set.run[run],
             model->values.run[run]);
}

void optimizer_average(Optimizer *optimizer, Model *model) {
    for (int run = 0; run < GRADIENT_RUNS && optimizer->average >= 0; run++)
        moving_average(model->work.dev, optimizer->states[optimizer->average].set.run[run],
                       model->values.run[run], (float)optimizer->config.ema);
}

void optimizer_lend_average(const Optimizer *optimizer, Model *trained, Model *evaluation,
                            bool average) {
    ParamSet values = trained->values; // of what rules change, always
    for (int run = 0; run < GRADIENT_RUNS && average; run++)
        values.run[run] = optimizer->states[optimizer->average].set.run[run];
    evaluation->values = evaluation->work.values = values;
    if (evaluation->work.storage == F32)
        evaluation->matrices = evaluation->work.matrices = values;
    else
        model_refresh_matrices(evaluation); // the copy that both use
}
