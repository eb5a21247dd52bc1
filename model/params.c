#include "model/params.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "kernels/rng.h"

// Rows start at multiples of 16 floats, one cache line; the padding between them stays zero.
enum { ROW_ALIGNMENT = 16 };

static int64_t row_stride(const Param *row) { // elements of one step along the first axis
    int64_t n = 1;
    for (int i = 1; i < row->rank; i++) n *= row->shape[i];
    return n;
}

int param_add(ParamTable *table, ParamKind kind, ParamInit init, float init_std, bool decay,
              int rank, const int64_t shape[], const char *name_format, ...) {
    CHECK(table->count < PARAMS_MAX, "more than %d parameters", PARAMS_MAX);
    int index = table->count++;
    Param *row = &table->rows[index];
    *row = (Param){.kind = kind, .rank = rank, .init = init, .init_std = init_std, .decay = decay};
    for (int i = 0; i < 3; i++) row->shape[i] = i < rank ? shape[i] : 1;
    row->first = kind == PARAM_EXPERT ? table->expert_first : 0;
    row->count = kind == PARAM_EXPERT ? table->expert_count : shape[0];
    va_list args;
    va_start(args, name_format);
    int length = vsnprintf(row->name, sizeof row->name, name_format, args);
    va_end(args);
    CHECK(length < (int)sizeof row->name, "parameter name %s… is too long", row->name);

    row->offset = table->elements[kind];
    int64_t local = row->count * row_stride(row);
    table->elements[kind] += (local + ROW_ALIGNMENT - 1) / ROW_ALIGNMENT * ROW_ALIGNMENT;
    return index;
}

ParamSet param_set_layout(const ParamTable *table, Arena *arena) {
    return (ParamSet){{arena_1d(arena, F32, table->elements[PARAM_DENSE]),
                       arena_1d(arena, F32, table->elements[PARAM_EXPERT])}};
}

Tensor param_tensor(const ParamTable *table, ParamSet set, int index) {
    const Param *row = &table->rows[index];
    Tensor run = set.run[row->kind];
    float *data = run.data ? (float *)run.data + row->offset : NULL;
    return (Tensor){data, F32, row->rank, {row->count, row->shape[1], row->shape[2], 1}};
}

int64_t param_elements(const Param *row) {
    return row->shape[0] * row_stride(row);
}

void param_init(const ParamTable *table, ParamSet values, uint64_t seed) {
    for (int i = 0; i < table->count; i++) {
        const Param *row = &table->rows[i];
        float *w = tensor_f32(param_tensor(table, values, i));
        int64_t stride = row_stride(row), local = row->count * stride;
        int64_t first = row->first * stride; // global number of the first local element
        RngStream stream = {seed, RNG_INIT, 0, (uint32_t)i};
#pragma omp parallel for schedule(static)
        for (int64_t k = 0; k < local; k++) {
            switch (row->init) {
            case INIT_NORMAL:
                w[k] = row->init_std * (float)rng_normal(stream, (uint64_t)(first + k));
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
