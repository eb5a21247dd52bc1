// Histories for tests: MoE layers that report what a router does, and the totals of a step to fill
// in by name.
#ifndef MOETRAIN_TESTS_UNIT_HISTORY_SAMPLE_H
#define MOETRAIN_TESTS_UNIT_HISTORY_SAMPLE_H

#include <stdlib.h>

#include "checkpoint/utilization.h"

typedef struct HistorySample {
    Statistics stats; // the columns alone
    double *sums;
    int64_t *counts;
} HistorySample;

// Layer i has experts[i] experts; none where that is 0.
static inline HistorySample history_sample(int64_t layers, const int64_t *experts) {
    HistorySample sample = {0};
    statistics_begin(&sample.stats);
    for (int64_t layer = 0; layer < layers; layer++) {
        if (experts[layer] == 0) continue;
        statistics_scalar(&sample.stats, "entropy", layer);
        statistics_vector(&sample.stats, "weight_mass", layer, experts[layer]);
        statistics_counts(&sample.stats, "routed", layer, experts[layer]);
        statistics_counts(&sample.stats, "dropped", layer, experts[layer]);
    }
    sample.sums = calloc((size_t)sample.stats.width + 1, sizeof *sample.sums);
    sample.counts = calloc((size_t)sample.stats.count_width + 1, sizeof *sample.counts);
    CHECK_MEMORY(sample.sums && sample.counts, "no memory for a step");
    return sample;
}

static inline void history_sample_free(HistorySample *sample) {
    statistics_free(&sample->stats);
    free(sample->sums);
    free(sample->counts);
}

static inline void history_sample_open(const HistorySample *sample, UtilizationHistory *history) {
    utilization_shape(history, sample->stats.columns, sample->stats.column_count);
    utilization_allocate(history);
}

static inline double *step_sums(const HistorySample *sample, const char *name, int64_t layer) {
    return sample->sums + statistics_find(&sample->stats, name, layer)->first;
}
static inline int64_t *step_counts(const HistorySample *sample, const char *name, int64_t layer) {
    return sample->counts + statistics_find(&sample->stats, name, layer)->first;
}

static inline void history_sample_add(const HistorySample *sample, UtilizationHistory *history) {
    utilization_add(history, sample->sums, sample->counts);
}

#endif
