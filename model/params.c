#include "model/params.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/deal.h"
#include "kernels/heartbeat.h"
#include "kernels/integers.h"
#include "kernels/peer_ops.h"
#include "kernels/rng.h"
#include "model/placement.h"

const ParamGroup param_groups[PARAM_GROUPS] = {
    [GROUP_DECAY] = {.decay = true},
    [GROUP_NO_DECAY] = {.decay = false},
    [GROUP_HIDDEN] = {.decay = true, .matrices = true},
};

static int64_t row_stride(const Param *row) { // elements of one step along the first axis
    int64_t n = 1;
    for (int i = 1; i < row->rank; i++) n *= row->shape[i];
    return n;
}

int64_t param_local_elements(const Param *row) {
    return row->count * row_stride(row);
}

int64_t param_global_row(const Param *row, int64_t i) {
    return row->places ? row->places->expert_at[row->first + i] : row->first + i;
}

static int64_t padded(int64_t elements) {
    return (elements + PARAM_ALIGNMENT - 1) / PARAM_ALIGNMENT * PARAM_ALIGNMENT;
}

static void check_fused(const Param *row) {
    int64_t rows = 0;
    for (int i = 0; i < PARAM_FUSED_MAX; i++) rows += row->fused[i];
    CHECK(rows == 0 || rows == row->shape[row->rank - 2], "%s: %lld fused rows of %lld", row->name,
          (long long)rows, (long long)row->shape[row->rank - 2]);
}

// Names `row`, finds this rank's share of it and its place in its run.
static void place_row(ParamTable *table, Param *row) {
    CHECK(row->rank >= 1 && row->rank <= 3, "%s has %d axes", row->name, row->rank);
    CHECK(row->group < PARAM_GROUPS, "%s is in group %d", row->name, (int)row->group);
    if (row->rank > 1) check_fused(row);
    for (int i = row->rank; i < 3; i++) row->shape[i] = 1;
    bool expert = row->kind == PARAM_EXPERT, shared = expert && table->ep_size > 1;
    Deal deal = deal_evenly(row->shape[0], shared ? table->ep_size : 1);
    row->count = shared ? deal_count(deal, table->ep_rank) : row->shape[0];
    row->first = shared ? deal_first(deal, table->ep_rank) : 0;
    if (row->active == 0) row->active = 1;
    if (row->lr_scale == 0) row->lr_scale = 1;
    row->run = row->update == UPDATE_RULE ? RUN_RULE : expert ? RUN_EXPERT : RUN_DENSE;
    row->offset = table->elements[row->run];
    table->elements[row->run] += padded(param_local_elements(row));
    CHECK(!row->few_rows || row->rank == 2, "%s has few rows and %d axes", row->name, row->rank);
    row->mark = table->marks;
    if (row->few_rows) table->marks += row->count;
}

void param_scope(ParamTable *table, const char *prefix, int64_t number) {
    table->scope[0] = 0;
    if (prefix) snprintf(table->scope, sizeof table->scope, "%s.%lld.", prefix, (long long)number);
}

int param_add(ParamTable *table, Param row, const char *name_format, ...) {
    if (table->count == table->capacity) {
        table->capacity = table->capacity > 0 ? 2 * table->capacity : 64;
        table->rows = realloc(table->rows, (size_t)table->capacity * sizeof *table->rows);
        CHECK_MEMORY(table->rows, "no memory for a table of %d parameters", table->capacity);
    }
    int scope = snprintf(row.name, sizeof row.name, "%s", table->scope);
    size_t room = sizeof row.name - (size_t)scope;
    va_list args;
    va_start(args, name_format);
    int length = vsnprintf(row.name + scope, room, name_format, args);
    va_end(args);
    CHECK(length < (int)room, "parameter name %s… is too long", row.name);
    place_row(table, &row);
    table->rows[table->count] = row;
    return table->count++;
}

ParamTable param_table_selection(const ParamTable *table, const bool *keep) {
    ParamTable selection = *table;
    selection.capacity = table->count;
    selection.rows = calloc((size_t)table->count + 1, sizeof *selection.rows);
    CHECK_MEMORY(selection.rows, "no memory for a table of %d parameters", table->count);
    for (int run = 0; run < PARAM_RUNS; run++) selection.elements[run] = 0;
    for (int i = 0; i < table->count; i++) {
        Param *row = &selection.rows[i];
        *row = table->rows[i];
        row->offset = keep[i] ? selection.elements[row->run] : -1;
        if (keep[i]) selection.elements[row->run] += padded(param_local_elements(row));
    }
    return selection;
}

void param_table_free(ParamTable *table) {
    free(table->rows);
    *table = (ParamTable){0};
}

ParamSet param_set_layout(const ParamTable *table, Arena *arena, DType dtype) {
    ParamSet set = {0};
    for (int run = 0; run < GRADIENT_RUNS; run++)
        set.run[run] = arena_1d(arena, dtype, table->elements[run]);
    return set;
}

ParamSet param_values_layout(const ParamTable *table, Arena *arena) {
    ParamSet set = param_set_layout(table, arena, F32);
    set.run[RUN_RULE] = arena_1d(arena, F32, table->elements[RUN_RULE]);
    return set;
}

Tensor param_tensor(const ParamTable *table, ParamSet set, int index) {
    const Param *row = &table->rows[index];
    CHECK(row->offset >= 0, "%s has no place in this set", row->name);
    Tensor x = tensor_range(set.run[row->run], row->offset, param_local_elements(row));
    x.rank = row->rank;
    x.shape[0] = row->count;
    x.shape[1] = row->shape[1];
    x.shape[2] = row->shape[2];
    return x;
}

int64_t param_segments(const Param *row) {
    if (row->kind != PARAM_EXPERT) return 1;
    if (!row->few_rows) return row->shape[0];
    return smaller(largest_power_of_two_divisor(row->shape[0]), NAMED_PARTS);
}

int64_t param_local_segments(const Param *row) {
    if (row->kind != PARAM_EXPERT) return 1;
    return param_segments(row) * row->count / row->shape[0];
}

int64_t param_global_segment(const Param *row, int64_t i) {
    if (row->places) return param_global_row(row, i);
    return param_segments(row) * row->first / row->shape[0] + i;
}

Tensor param_marks(const ParamTable *table, ParamSet set, int index) {
    const Param *row = &table->rows[index];
    if (set.marks.rank == 0 || !row->few_rows) return (Tensor){0};
    return tensor_range(set.marks, row->mark, row->count);
}

int64_t param_elements(const Param *row) {
    return row->shape[0] * row_stride(row);
}

int64_t param_active_elements(const Param *row) {
    return llround((double)param_elements(row) * row->active);
}

const Param *param_find(const ParamTable *table, const char *name) {
    for (int i = 0; i < table->count; i++)
        if (strcmp(table->rows[i].name, name) == 0) return &table->rows[i];
    return NULL;
}

enum { PIECE = 1 << 22 }; // elements between two signs of life

// Neighbouring elements of one parameter into host memory; `first` is the number of the first one.
static void init_elements(const Param *row, RngStream stream, float *w, int64_t first,
                          int64_t count) {
    for (int64_t begin = 0; begin < count; begin += PIECE) {
        int64_t end = smaller(begin + PIECE, count);
        watchdog_beat(NULL);
#pragma omp parallel for schedule(static)
        for (int64_t k = begin; k < end; k++) {
            switch (row->init) {
            case INIT_NORMAL:
                w[k] = (float)row->init_std * (float)rng_normal(stream, (uint64_t)(first + k));
                break;
            case INIT_ONES:
                w[k] = 1;
                break;
            case INIT_ZEROS:
                w[k] = 0;
                break;
            }
        }
    }
}

void param_init_row(const Param *row, float *w, uint64_t seed) {
    RngStream stream = rng_named(seed, RNG_INIT, row->name);
    int64_t stride = row_stride(row);
    int64_t runs = row->places ? row->count : 1,
            length = param_local_elements(row) / larger(runs, 1);
    for (int64_t i = 0; i < runs; i++)
        init_elements(row, stream, w + i * length, param_global_row(row, i) * stride, length);
}

void param_init(const ParamTable *table, Device *dev, ParamSet values, uint64_t seed) {
    Arena host; // one row at a time, where the values are not on the host
    arena_measure(&host, "initial parameters", NULL);
    for (int i = 0; i < table->count; i++) {
        if (table->rows[i].offset < 0) continue;
        arena_mirror(&host, param_tensor(table, values, i));
        arena_release(&host, 0);
    }
    arena_allocate(&host);
    for (int i = 0; i < table->count; i++) {
        if (table->rows[i].offset < 0) continue;
        Tensor there = param_tensor(table, values, i), here = arena_mirror(&host, there);
        param_init_row(&table->rows[i], tensor_f32(here), seed);
        device_upload(dev, there, here);
        arena_release(&host, 0);
    }
    arena_free(&host);
}
