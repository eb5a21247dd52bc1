#include "checkpoint/utilization.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/check.h"

// Zeroed; never NULL, also for nothing.
static void *allocate(int64_t count, size_t item_bytes) {
    void *memory = calloc((size_t)count + 1, item_bytes);
    CHECK_MEMORY(memory, "no memory for %lld values of the utilization history",
                 (long long)count);
    return memory;
}

static void *grow(void *memory, int64_t count, size_t item_bytes) {
    memory = realloc(memory, ((size_t)count + 1) * item_bytes);
    CHECK_MEMORY(memory, "no memory for %lld values of the utilization history",
                 (long long)count);
    return memory;
}

void utilization_init(UtilizationHistory *history, int64_t layers, int64_t experts) {
    *history = (UtilizationHistory){
        .layers = layers,
        .experts = experts,
        .open_routed = allocate(layers * experts, sizeof(int64_t)),
        .open_dropped = allocate(layers * experts, sizeof(int64_t)),
        .open_weight_mass = allocate(layers * experts, sizeof(double)),
        .open_entropy = allocate(layers, sizeof(double)),
    };
    utilization_reserve(history, 16);
}

void utilization_free(UtilizationHistory *history) {
    free(history->step);
    free(history->steps);
    free(history->routed);
    free(history->dropped);
    free(history->weight_mass);
    free(history->entropy);
    free(history->open_routed);
    free(history->open_dropped);
    free(history->open_weight_mass);
    free(history->open_entropy);
    *history = (UtilizationHistory){0};
}

void utilization_reserve(UtilizationHistory *history, int64_t rows) {
    if (rows <= history->capacity) return;
    int64_t cells = rows * history->layers * history->experts;
    history->step = grow(history->step, rows, sizeof *history->step);
    history->steps = grow(history->steps, rows, sizeof *history->steps);
    history->routed = grow(history->routed, cells, sizeof *history->routed);
    history->dropped = grow(history->dropped, cells, sizeof *history->dropped);
    history->weight_mass = grow(history->weight_mass, cells, sizeof *history->weight_mass);
    history->entropy = grow(history->entropy, rows * history->layers, sizeof *history->entropy);
    history->capacity = rows;
}

void utilization_add(UtilizationHistory *history, const int64_t *routed, const int64_t *dropped,
                     const double *weight_mass, const double *entropy) {
    for (int64_t cell = 0; cell < history->layers * history->experts; cell++) {
        history->open_routed[cell] += routed[cell];
        history->open_dropped[cell] += dropped[cell];
        history->open_weight_mass[cell] += weight_mass[cell];
    }
    for (int64_t layer = 0; layer < history->layers; layer++)
        history->open_entropy[layer] += entropy[layer];
    history->open_steps++;
}

void utilization_close_row(UtilizationHistory *history, int64_t step) {
    if (history->open_steps == 0) return;
    if (history->rows == history->capacity) utilization_reserve(history, 2 * history->capacity);
    int64_t row = history->rows++, layers = history->layers, cells = layers * history->experts;
    history->step[row] = step;
    history->steps[row] = history->open_steps;
    memcpy(history->routed + row * cells, history->open_routed, (size_t)cells * sizeof(int64_t));
    memcpy(history->dropped + row * cells, history->open_dropped, (size_t)cells * sizeof(int64_t));
    memcpy(history->weight_mass + row * cells, history->open_weight_mass,
           (size_t)cells * sizeof(double));
    for (int64_t layer = 0; layer < layers; layer++)
        history->entropy[row * layers + layer] =
            history->open_entropy[layer] / (double)history->open_steps;
    history->open_steps = 0;
    memset(history->open_routed, 0, (size_t)cells * sizeof(int64_t));
    memset(history->open_dropped, 0, (size_t)cells * sizeof(int64_t));
    memset(history->open_weight_mass, 0, (size_t)cells * sizeof(double));
    memset(history->open_entropy, 0, (size_t)layers * sizeof(double));
}
