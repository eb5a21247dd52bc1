#include "model/narrow_weights.h"

#include <stdlib.h>

void narrow_weights_begin(NarrowWeights *narrow, DType type, ParamTable *table) {
    *narrow = (NarrowWeights){.type = type};
    if (type == F32) return;
    size_t rows = (size_t)table->count + 1;
    bool *keep = calloc(rows, sizeof *keep);
    narrow->is_narrow = calloc(rows, sizeof *narrow->is_narrow);
    narrow->matrices = calloc(rows, sizeof *narrow->matrices);
    CHECK_MEMORY(keep && narrow->is_narrow && narrow->matrices,
                 "no memory for a table of %d parameters", table->count);
    for (int i = 0; i < table->count; i++) {
        const Param *row = &table->rows[i];
        narrow->is_narrow[i] = row->multiplies;
        keep[i] = !row->multiplies || row->looked_up;
    }
    ParamTable left = param_table_selection(table, keep);
    param_table_free(table);
    *table = left;
    free(keep);
}

// A matrix with the rows of a dense weight, or one for each expert.
static void shape_of(const Param *row, int64_t shape[3]) {
    bool dense = row->rank == 2;
    shape[0] = dense ? 1 : row->count;
    shape[1] = dense ? row->count : row->shape[1];
    shape[2] = dense ? row->shape[1] : row->shape[2];
}

void narrow_weights_layout(NarrowWeights *narrow, const ParamTable *table, Arena *arena) {
    for (int i = 0; narrow->is_narrow && i < table->count; i++) {
        int64_t n[3];
        if (!narrow->is_narrow[i]) continue;
        shape_of(&table->rows[i], n);
        narrow->matrices[i].values = arena_3d(arena, narrow->type, n[0], n[1], n[2]);
        if (narrow->type == I8) narrow->matrices[i].scales = arena_1d(arena, F32, n[0] * n[1]);
    }
}

void narrow_weights_free(NarrowWeights *narrow) {
    free(narrow->is_narrow);
    free(narrow->matrices);
    *narrow = (NarrowWeights){0};
}

bool narrow_weights_set(const NarrowWeights *narrow, const ParamTable *table, Device *dev,
                        int index, const float *values, Error *err) {
    QuantizedMatrix there = narrow->matrices[index], here = there;
    int64_t rows = there.values.shape[0] * there.values.shape[1];
    Arena host;
    arena_measure(&host, "quantised weights", NULL);
    for (int pass = 0; pass < 2; pass++) {
        if (pass == 1) arena_allocate(&host);
        here.values = arena_mirror(&host, there.values);
        if (there.scales.data) here.scales = arena_mirror(&host, there.scales);
    }
    float *scales = here.scales.data ? tensor_f32(here.scales) : NULL;
    bool ok = quantize_rows(narrow->type, here.values.data, scales, values, rows,
                            there.values.shape[2], err) ||
              error_prefix(err, "%s", table->rows[index].name);
    if (ok) device_upload(dev, there.values, here.values);
    if (ok && scales) device_upload(dev, there.scales, here.scales);
    arena_free(&host);
    return ok;
}

void narrow_weights_init(const NarrowWeights *narrow, const ParamTable *table, Device *dev,
                         uint64_t seed) {
    for (int i = 0; i < table->count; i++) {
        const Param *row = &table->rows[i];
        if (!narrow->is_narrow[i]) continue;
        float *values = malloc((size_t)param_local_elements(row) * sizeof *values + 1);
        CHECK_MEMORY(values, "no memory for %s", row->name);
        Error err = {0};
        param_init_row(row, values, seed);
        CHECK(narrow_weights_set(narrow, table, dev, i, values, &err), "%s", err.message);
        free(values);
    }
}
