#include "checkpoint/utilization.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/check.h"

// Zeroed; never NULL, also for nothing.
static void *allocate(int64_t count, size_t item_bytes) {
    void *memory = calloc((size_t)count + 1, item_bytes);
    CHECK_MEMORY(memory, "no memory for %lld values of the utilization history", (long long)count);
    return memory;
}

static void *grow(void *memory, int64_t count, size_t item_bytes) {
    memory = realloc(memory, ((size_t)count + 1) * item_bytes);
    CHECK_MEMORY(memory, "no memory for %lld values of the utilization history", (long long)count);
    return memory;
}

static size_t row_bytes(int64_t layers, int64_t experts) {
    size_t cells = (size_t)(layers * experts);
    return cells * (2 * sizeof(int64_t) + sizeof(double)) + (size_t)layers * sizeof(double) +
           2 * sizeof(int64_t);
}

int64_t utilization_room(int64_t layers, int64_t experts) {
    const int64_t most_rows = 4096, least_rows = 8; // merging wants four at least
    const size_t most_bytes = (size_t)256 << 20;
    int64_t rows = (int64_t)(most_bytes / row_bytes(layers, experts)) / 4 * 4;
    return rows > most_rows ? most_rows : rows < least_rows ? least_rows : rows;
}

size_t utilization_bytes(int64_t layers, int64_t experts) {
    return (size_t)(utilization_room(layers, experts) + 1) * row_bytes(layers, experts);
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
    utilization_reserve(history, utilization_room(layers, experts));
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

// Row `to` becomes the sum of the rows first and first + 1; to <= first.
static void merge_rows(UtilizationHistory *history, int64_t to, int64_t first) {
    int64_t layers = history->layers, cells = layers * history->experts, next = first + 1;
    double steps = (double)history->steps[first], more = (double)history->steps[next];
    for (int64_t layer = 0; layer < layers; layer++)
        history->entropy[to * layers + layer] = (history->entropy[first * layers + layer] * steps +
                                                 history->entropy[next * layers + layer] * more) /
                                                (steps + more);
    for (int64_t cell = 0; cell < cells; cell++) {
        history->routed[to * cells + cell] =
            history->routed[first * cells + cell] + history->routed[next * cells + cell];
        history->dropped[to * cells + cell] =
            history->dropped[first * cells + cell] + history->dropped[next * cells + cell];
        history->weight_mass[to * cells + cell] =
            history->weight_mass[first * cells + cell] + history->weight_mass[next * cells + cell];
    }
    history->steps[to] = history->steps[first] + history->steps[next];
    history->step[to] = history->step[next];
}

static void move_rows(void *column, int64_t to, int64_t from, int64_t rows, int64_t items) {
    char *bytes = column; // all columns have items of 8 bytes
    memmove(bytes + to * items * 8, bytes + from * items * 8, (size_t)(rows * items) * 8);
}

// Halves the number of the older half of the rows.
static void merge_older_half(UtilizationHistory *history) {
    int64_t layers = history->layers, cells = layers * history->experts;
    int64_t merged = history->rows / 4, rest = history->rows - 2 * merged;
    for (int64_t row = 0; row < merged; row++) merge_rows(history, row, 2 * row);
    move_rows(history->step, merged, 2 * merged, rest, 1);
    move_rows(history->steps, merged, 2 * merged, rest, 1);
    move_rows(history->routed, merged, 2 * merged, rest, cells);
    move_rows(history->dropped, merged, 2 * merged, rest, cells);
    move_rows(history->weight_mass, merged, 2 * merged, rest, cells);
    move_rows(history->entropy, merged, 2 * merged, rest, layers);
    history->rows = merged + rest;
}

void utilization_close_row(UtilizationHistory *history, int64_t step) {
    if (history->open_steps == 0) return;
    int64_t room = utilization_room(history->layers, history->experts);
    while (history->rows >= room) merge_older_half(history);
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
