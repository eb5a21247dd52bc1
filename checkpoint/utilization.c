#include "checkpoint/utilization.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/log.h"

// ---- shape and memory ---------------------------------------------------------------------------

enum { VALUE_BYTES = 8 }; // of counts and of doubles
_Static_assert(sizeof(int64_t) == VALUE_BYTES && sizeof(double) == VALUE_BYTES, "moved as bytes");

static void *grow(void *memory, int64_t count, size_t item_bytes) {
    memory = realloc(memory, ((size_t)count + 1) * item_bytes);
    CHECK_MEMORY(memory, "no memory for %lld values of the utilization history", (long long)count);
    return memory;
}

static int64_t cells_of(const UtilizationSeries *series) {
    return series->layers * series->width;
}

static UtilizationSeries *series_of(UtilizationHistory *history, const StatisticsColumn *column) {
    for (int i = 0; i < history->series_count; i++) {
        UtilizationSeries *series = &history->series[i];
        if (strcmp(series->name, column->name) != 0) continue;
        CHECK(series->kind == column->kind, "%s is of two kinds", series->name);
        return series;
    }
    CHECK(history->series_count < UTILIZATION_SERIES_MAX, "more than %d names of columns",
          UTILIZATION_SERIES_MAX);
    UtilizationSeries *series = &history->series[history->series_count++];
    *series = (UtilizationSeries){.kind = column->kind};
    snprintf(series->name, sizeof series->name, "%s", column->name);
    return series;
}

void utilization_shape(UtilizationHistory *history, const StatisticsColumn *columns, int count) {
    *history = (UtilizationHistory){0};
    for (int i = 0; i < count; i++) {
        const StatisticsColumn *column = &columns[i];
        if (column->layer == STATISTICS_MODEL || column->kind == STATISTICS_RULE) continue;
        UtilizationSeries *series = series_of(history, column);
        int64_t layer = series->layers++;
        series->of = grow(series->of, layer + 1, sizeof *series->of);
        series->first = grow(series->first, layer + 1, sizeof *series->first);
        series->of[layer] = (UtilizationLayer){column->layer, column->count};
        series->first[layer] = column->first;
        if (column->count > series->width) series->width = column->count;
    }
}

void utilization_allocate(UtilizationHistory *history) {
    for (int i = 0; i < history->series_count; i++) {
        UtilizationSeries *series = &history->series[i];
        series->open = calloc((size_t)cells_of(series) + 1, VALUE_BYTES);
        CHECK_MEMORY(series->open, "no memory for %lld values of a step",
                     (long long)cells_of(series));
    }
    utilization_reserve(history, utilization_room(history));
}

void utilization_free(UtilizationHistory *history) {
    for (int i = 0; i < history->series_count; i++) {
        free(history->series[i].of);
        free(history->series[i].first);
        free(history->series[i].rows);
        free(history->series[i].open);
    }
    free(history->step);
    free(history->steps);
    *history = (UtilizationHistory){0};
}

void utilization_reserve(UtilizationHistory *history, int64_t rows) {
    if (rows <= history->capacity) return;
    history->step = grow(history->step, rows, sizeof *history->step);
    history->steps = grow(history->steps, rows, sizeof *history->steps);
    for (int i = 0; i < history->series_count; i++) {
        UtilizationSeries *series = &history->series[i];
        series->rows = grow(series->rows, rows * cells_of(series), VALUE_BYTES);
    }
    history->capacity = rows;
}

static size_t row_bytes(const UtilizationHistory *history) {
    size_t bytes = 2 * sizeof(int64_t);
    for (int i = 0; i < history->series_count; i++)
        bytes += (size_t)cells_of(&history->series[i]) * VALUE_BYTES;
    return bytes;
}

int64_t utilization_room(const UtilizationHistory *history) {
    const int64_t most_rows = 4096, least_rows = 8; // merging wants four at least
    const size_t most_bytes = (size_t)256 << 20;
    int64_t rows = (int64_t)(most_bytes / row_bytes(history)) / 4 * 4;
    return rows > most_rows ? most_rows : rows < least_rows ? least_rows : rows;
}

size_t utilization_bytes(const UtilizationHistory *history) {
    return (size_t)(utilization_room(history) + 1) * row_bytes(history);
}

const UtilizationSeries *utilization_find(const UtilizationHistory *history, const char *name) {
    for (int i = 0; i < history->series_count; i++)
        if (strcmp(history->series[i].name, name) == 0) return &history->series[i];
    return NULL;
}

// ---- steps and rows -----------------------------------------------------------------------------

void utilization_add(UtilizationHistory *history, const double *sums, const int64_t *counts) {
    for (int i = 0; i < history->series_count; i++) {
        UtilizationSeries *series = &history->series[i];
        for (int64_t layer = 0; layer < series->layers; layer++) {
            int64_t to = layer * series->width, from = series->first[layer];
            for (int64_t v = 0; v < series->of[layer].values; v++) {
                if (series->kind == STATISTICS_COUNTS)
                    ((int64_t *)series->open)[to + v] += counts[from + v];
                else if (series->kind == STATISTICS_MAX && history->open_steps > 0)
                    ((double *)series->open)[to + v] =
                        fmax(((double *)series->open)[to + v], sums[from + v]);
                else
                    ((double *)series->open)[to + v] += sums[from + v];
            }
        }
    }
    history->open_steps++;
}

// Row `to` of a series becomes the rows first and first + 1 together; to <= first.
static void merge_counts(UtilizationSeries *series, int64_t to, int64_t first) {
    int64_t cells = cells_of(series);
    int64_t *sum = (int64_t *)series->rows + to * cells;
    const int64_t *a = (int64_t *)series->rows + first * cells, *b = a + cells;
    for (int64_t c = 0; c < cells; c++) sum[c] = a[c] + b[c];
}
static void merge_sums(UtilizationSeries *series, int64_t to, int64_t first) {
    int64_t cells = cells_of(series);
    double *sum = (double *)series->rows + to * cells;
    const double *a = (double *)series->rows + first * cells, *b = a + cells;
    for (int64_t c = 0; c < cells; c++) sum[c] = a[c] + b[c];
}
static void merge_maxima(UtilizationSeries *series, int64_t to, int64_t first) {
    int64_t cells = cells_of(series);
    double *largest = (double *)series->rows + to * cells;
    const double *a = (double *)series->rows + first * cells, *b = a + cells;
    for (int64_t c = 0; c < cells; c++) largest[c] = fmax(a[c], b[c]);
}
static void merge_means(UtilizationSeries *series, int64_t to, int64_t first, double steps,
                        double more) {
    int64_t cells = cells_of(series);
    double *mean = (double *)series->rows + to * cells;
    const double *a = (double *)series->rows + first * cells, *b = a + cells;
    for (int64_t c = 0; c < cells; c++) mean[c] = (a[c] * steps + b[c] * more) / (steps + more);
}

static void merge_rows(UtilizationHistory *history, int64_t to, int64_t first) {
    int64_t *steps = history->steps;
    for (int i = 0; i < history->series_count; i++) {
        UtilizationSeries *series = &history->series[i];
        switch (series->kind) {
        case STATISTICS_COUNTS:
            merge_counts(series, to, first);
            break;
        case STATISTICS_VECTOR:
        case STATISTICS_RULE: // none is here
            merge_sums(series, to, first);
            break;
        case STATISTICS_MAX:
            merge_maxima(series, to, first);
            break;
        case STATISTICS_SCALAR:
        case STATISTICS_STATE:
            merge_means(series, to, first, (double)steps[first], (double)steps[first + 1]);
            break;
        }
    }
    steps[to] = steps[first] + steps[first + 1];
    history->step[to] = history->step[first + 1];
}

static void move_rows(void *column, int64_t to, int64_t from, int64_t rows, int64_t cells) {
    char *bytes = column;
    memmove(bytes + to * cells * VALUE_BYTES, bytes + from * cells * VALUE_BYTES,
            (size_t)(rows * cells) * VALUE_BYTES);
}

// Halves the number of the older half of the rows.
static void merge_older_half(UtilizationHistory *history) {
    int64_t merged = history->rows / 4, rest = history->rows - 2 * merged;
    for (int64_t row = 0; row < merged; row++) merge_rows(history, row, 2 * row);
    move_rows(history->step, merged, 2 * merged, rest, 1);
    move_rows(history->steps, merged, 2 * merged, rest, 1);
    for (int i = 0; i < history->series_count; i++)
        move_rows(history->series[i].rows, merged, 2 * merged, rest, cells_of(&history->series[i]));
    history->rows = merged + rest;
}

static void close_series(UtilizationSeries *series, int64_t row, double steps) {
    int64_t cells = cells_of(series);
    size_t bytes = (size_t)cells * VALUE_BYTES;
    if (series->kind == STATISTICS_SCALAR || series->kind == STATISTICS_STATE)
        for (int64_t c = 0; c < cells; c++) ((double *)series->open)[c] /= steps;
    memcpy((char *)series->rows + (size_t)row * bytes, series->open, bytes);
    memset(series->open, 0, bytes);
}

void utilization_close_row(UtilizationHistory *history, int64_t step) {
    if (history->open_steps == 0) return;
    int64_t room = utilization_room(history);
    while (history->rows >= room) merge_older_half(history);
    int64_t row = history->rows++;
    history->step[row] = step;
    history->steps[row] = history->open_steps;
    for (int i = 0; i < history->series_count; i++)
        close_series(&history->series[i], row, (double)history->open_steps);
    history->open_steps = 0;
}

// ---- going on -----------------------------------------------------------------------------------

static bool check_same_layers(const UtilizationSeries *file, const UtilizationSeries *here,
                              Error *err) {
    // A file does not tell a state or maxima from sums.
    bool state = (here->kind == STATISTICS_STATE || here->kind == STATISTICS_MAX) &&
                 file->kind == STATISTICS_VECTOR;
    bool same = (file->kind == here->kind || state) && file->layers == here->layers;
    for (int64_t layer = 0; same && layer < here->layers; layer++) {
        // Files of earlier programs count the layers that have it instead of naming them.
        bool named = file->of[layer].number == here->of[layer].number;
        same = file->of[layer].values == here->of[layer].values &&
               (named || file->of[layer].number == layer);
    }
    return same ||
           error_set(err, EXIT_CHECKPOINT,
                     "utilization/%s has %lld layers of up to %lld values in the checkpoint "
                     "and other ones, %lld of up to %lld, here",
                     here->name, (long long)file->layers, (long long)file->width,
                     (long long)here->layers, (long long)here->width);
}

static void fill_unknown(const UtilizationSeries *series, void *values, int64_t rows) {
    for (int64_t i = 0; i < rows * cells_of(series); i++) {
        if (series->kind == STATISTICS_COUNTS)
            ((int64_t *)values)[i] = 0;
        else
            ((double *)values)[i] = NAN;
    }
}

bool utilization_continue(UtilizationHistory *history, const UtilizationHistory *from, Error *err) {
    for (int i = 0; i < history->series_count; i++) {
        const UtilizationSeries *here = &history->series[i];
        const UtilizationSeries *file = utilization_find(from, here->name);
        if (file && !check_same_layers(file, here, err)) return false;
    }
    for (int i = 0; i < from->series_count; i++)
        if (from->series[i].layers > 0 && !utilization_find(history, from->series[i].name))
            log_warn("the checkpoint's utilization/%s is of no layer of this model and ends here",
                     from->series[i].name);

    utilization_reserve(history, from->rows);
    history->rows = from->rows;
    history->open_steps = from->open_steps;
    memcpy(history->step, from->step, (size_t)from->rows * sizeof *history->step);
    memcpy(history->steps, from->steps, (size_t)from->rows * sizeof *history->steps);
    for (int i = 0; i < history->series_count; i++) {
        UtilizationSeries *here = &history->series[i];
        const UtilizationSeries *file = utilization_find(from, here->name);
        size_t bytes = (size_t)cells_of(here) * VALUE_BYTES;
        if (file) {
            memcpy(here->rows, file->rows, (size_t)from->rows * bytes);
            memcpy(here->open, file->open, bytes);
        } else {
            fill_unknown(here, here->rows, from->rows);
            fill_unknown(here, here->open, from->open_steps > 0 ? 1 : 0);
        }
    }
    return true;
}
