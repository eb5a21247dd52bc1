// A small model's worth of checkpoint for the tests: every type, dense and sharded tensors,
// replicas of experts, empty tensors, blocks of all kinds. Each element is a function of step,
// tensor and global place, so any rank of any number of ranks can tell whether what it loaded is
// right.
#ifndef MOETRAIN_TESTS_PARALLEL_CHECKPOINT_SAMPLE_H
#define MOETRAIN_TESTS_PARALLEL_CHECKPOINT_SAMPLE_H

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/checkpoint.h"
#include "tests/unit/history_sample.h"

enum { SAMPLE_TENSORS = 9, SAMPLE_LAYERS = 2, SAMPLE_EXPERTS = 8 };

typedef struct Sample {
    SavedTensor tensors[SAMPLE_TENSORS];
    UtilizationHistory utilization;
    Checkpoint checkpoint;
} Sample;

static inline uint64_t sample_bits(int64_t step, int tensor, int64_t element) {
    uint64_t x = (uint64_t)step * 1000003u + (uint64_t)tensor * 7919u + (uint64_t)element + 1u;
    x *= 0x9e3779b97f4a7c15u;
    return x ^ x >> 29;
}

static inline size_t sample_bytes(const SavedTensor *tensor) { // held here
    return (size_t)tensor->elements * dtype_bytes(tensor->dtype);
}

// Calls for each element held here: writes it, or compares and returns false at the first
// difference.
static inline bool sample_visit(const SavedTensor *tensor, int number, int64_t step, bool write) {
    size_t width = dtype_bytes(tensor->dtype);
    char *at = tensor->data;
    for (int64_t i = 0; i < tensor->elements; i++) {
        uint64_t bits = sample_bits(step, number, tensor->first_element + i);
        if (write)
            memcpy(at, &bits, width);
        else if (memcmp(at, &bits, width) != 0)
            return false;
        at += width;
    }
    return true;
}

static inline HistorySample sample_columns(int64_t experts) {
    int64_t of_layers[SAMPLE_LAYERS];
    for (int layer = 0; layer < SAMPLE_LAYERS; layer++) of_layers[layer] = experts;
    return history_sample(SAMPLE_LAYERS, of_layers);
}

// Without a step.
static inline UtilizationHistory sample_empty_history(int64_t experts) {
    UtilizationHistory history;
    HistorySample columns = sample_columns(experts);
    history_sample_open(&columns, &history);
    history_sample_free(&columns);
    return history;
}

static inline UtilizationHistory sample_utilization(int64_t step) {
    UtilizationHistory history = sample_empty_history(SAMPLE_EXPERTS);
    HistorySample columns = sample_columns(SAMPLE_EXPERTS);
    for (int64_t s = 1; s <= 5 * (step % 100) + 2; s++) { // two steps stay in the open row
        for (int cell = 0; cell < SAMPLE_LAYERS * SAMPLE_EXPERTS; cell++) {
            int64_t layer = cell / SAMPLE_EXPERTS, e = cell % SAMPLE_EXPERTS;
            step_counts(&columns, "routed", layer)[e] = s * cell;
            step_counts(&columns, "dropped", layer)[e] = s * cell;
            step_sums(&columns, "weight_mass", layer)[e] = 0.1 * (double)(s + cell);
        }
        *step_sums(&columns, "entropy", 0) = 1.0 / (double)s;
        *step_sums(&columns, "entropy", 1) = 2.0;
        history_sample_add(&columns, &history);
        if (s % 5 == 0) utilization_close_row(&history, s);
    }
    history_sample_free(&columns);
    return history;
}

static inline TrainState sample_state(int64_t step) {
    TrainState state = {.step = step,
                        .adam_steps = step - 1,
                        .skipped_steps = 1,
                        .skipped_in_row = 3,
                        .data_epoch = 4,
                        .data_index = 5 + step,
                        .tokens = 1000 * step};
    snprintf(state.data_id, sizeof state.data_id, "c0ffee-%lld", (long long)step);
    snprintf(state.run.run, sizeof state.run.run, "%032llx", (long long)step);
    state.run.parent_step = -1;
    state.run.healthy = 1;
    return state;
}

// The state after `step` as rank `rank` of `ranks` holds it. Experts are shared by 1, 2, 2 or 4
// ranks of 1, 2, 4 or 8, so that from 3 ranks on there are replicas. `large` adds blocks of 4 MiB.
static inline void sample_init(Sample *sample, int64_t step, int rank, int ranks, bool large) {
    static const char config[] = "model.layers: 2\nmoe.experts: 8\nmoe.top_k: 2\n";
    const int64_t E = SAMPLE_EXPERTS, wide = large ? (5 << 20) / 4 : 12;
    int64_t ep = 1;
    while (ep < 4 && ranks % (2 * ep) == 0 && (4 * ep <= ranks || ranks == 2)) ep *= 2;
    memset(sample, 0, sizeof *sample);
    const SavedTensor shapes[SAMPLE_TENSORS] = {
        {"parameters/embedding", F32, 2, {97, 33, 1}, .replicated = true},
        {"parameters/experts.up", F32, 3, {E, 6, 10}, .replicated = false},
        {"parameters/experts.bias", F32, 2, {E, wide, 1}, .replicated = false},
        {"optimizer/m/embedding", F32, 2, {2, wide, 1}, .replicated = true},
        {"optimizer/m/experts.up", F32, 3, {E, 6, 10}, .replicated = false},
        {"optimizer/counts", I64, 1, {E, 1, 1}, .replicated = false},
        {"optimizer/empty", F32, 2, {E, 0, 1}, .replicated = false},
        {"data/code_points", I32, 1, {50, 1, 1}, .replicated = true},
        {"data/frequencies", F64, 2, {50, 2, 1}, .replicated = true},
    };
    for (int i = 0; i < SAMPLE_TENSORS; i++) {
        SavedTensor *tensor = &sample->tensors[i];
        *tensor = shapes[i];
        tensor->elements = tensor->shape[0] * tensor->shape[1] * tensor->shape[2];
        if (!tensor->replicated) {
            tensor->elements /= ep;
            tensor->first_element = rank % ep * tensor->elements;
            tensor->replica = (int)(rank / ep);
        }
        tensor->data = malloc(sample_bytes(tensor) + 1);
        CHECK(tensor->data, "no memory");
        sample_visit(tensor, i, step, true);
    }
    sample->utilization = sample_utilization(step);
    sample->checkpoint = (Checkpoint){.tensors = sample->tensors,
                                      .tensor_count = SAMPLE_TENSORS,
                                      .state = sample_state(step),
                                      .config_yaml = config,
                                      .utilization = &sample->utilization};
}

// Forgets all contents, so that a load has something to do.
static inline void sample_clear(Sample *sample) {
    for (int i = 0; i < SAMPLE_TENSORS; i++) {
        const SavedTensor *tensor = &sample->tensors[i];
        memset(tensor->data, 0xee, sample_bytes(tensor));
    }
    sample->checkpoint.state = (TrainState){0};
    utilization_free(&sample->utilization);
    sample->utilization = sample_empty_history(SAMPLE_EXPERTS);
}

static inline bool sample_utilization_equals(const UtilizationHistory *a, int64_t step) {
    UtilizationHistory b = sample_utilization(step);
    size_t rows = (size_t)b.rows;
    bool equal = a->series_count == b.series_count && a->rows == b.rows &&
                 a->open_steps == b.open_steps && memcmp(a->step, b.step, rows * 8) == 0 &&
                 memcmp(a->steps, b.steps, rows * 8) == 0;
    for (int i = 0; equal && i < b.series_count; i++) {
        const UtilizationSeries *want = &b.series[i], *got = utilization_find(a, want->name);
        size_t cells = (size_t)(want->layers * want->width);
        equal = got && got->kind == want->kind && got->layers == want->layers &&
                got->width == want->width &&
                memcmp(got->of, want->of, (size_t)want->layers * sizeof *want->of) == 0 &&
                memcmp(got->rows, want->rows, rows * cells * 8) == 0 &&
                memcmp(got->open, want->open, cells * 8) == 0;
    }
    utilization_free(&b);
    return equal;
}

// Whether the tensors and what was computed of the state are bit for bit those of `step`; on rank 0
// the history too.
static inline bool sample_equals(const Sample *sample, int64_t step, int rank) {
    TrainState state = sample_state(step);
    if (memcmp(&state, &sample->checkpoint.state, offsetof(TrainState, run)) != 0) return false;
    for (int i = 0; i < SAMPLE_TENSORS; i++)
        if (!sample_visit(&sample->tensors[i], i, step, false)) return false;
    return rank != 0 || sample_utilization_equals(&sample->utilization, step);
}

static inline void sample_free(Sample *sample) {
    for (int i = 0; i < SAMPLE_TENSORS; i++) free(sample->tensors[i].data);
    utilization_free(&sample->utilization);
}

// Inverts the lowest bit of the byte at `offset`; negative offsets count from the end.
static inline void sample_flip(const char *path, long offset) {
    FILE *file = fopen(path, "r+b");
    CHECK(file && fseek(file, offset, offset < 0 ? SEEK_END : SEEK_SET) == 0, "no %s", path);
    int byte = fgetc(file);
    CHECK(byte != EOF && fseek(file, -1, SEEK_CUR) == 0 && fputc(byte ^ 1, file) != EOF &&
              fclose(file) == 0,
          "cannot change %s", path);
}

#endif
