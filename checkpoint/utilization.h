// The history of what layers report of themselves, above all every expert's load: a series of rows,
// one each `log.utilization_every` steps, kept by rank 0 and in every checkpoint, and continued by
// a resume. Every named column that a layer asked for (model/statistics.h) is in it. Counts and
// vectors are summed over all steps since the previous row, so nothing is lost between rows, and
// scalars are their mean; a checkpoint between two rows saves the open row too.
//
// Columns of one name make one table (row, layer, value), over the layers that have it and as wide
// as the longest: the values past a shorter layer's own are zeros.
//
// It is bounded: when its room is full (4096 rows, fewer where they would take more than 256 MiB,
// but at least 8) the older half of the rows is merged, two neighbours into one, so that sums stay
// exact and only the resolution of what is long ago is halved. When that happens depends on the
// shape and the number of rows alone, never on ranks or resumes. Nothing here is collective.
#ifndef MOETRAIN_CHECKPOINT_UTILIZATION_H
#define MOETRAIN_CHECKPOINT_UTILIZATION_H

#include "model/statistics.h"

enum { UTILIZATION_SERIES_MAX = 32 };

// The layers of a series: which of the model's, and how many values are its.
typedef struct UtilizationLayer {
    int64_t number, values;
} UtilizationLayer;

// All columns of one name. Its values, i64 for counts and f64 otherwise, have the index
// (row · layers + layer) · width + value.
typedef struct UtilizationSeries {
    char name[STATISTICS_NAME_BYTES];
    StatisticsKind kind;
    int64_t layers, width; // layers that have it, the most values of one; width 1 of scalars
    UtilizationLayer *of;  // (layers)
    int *first;            // (layers) places in a step's sums or counts; NULL when read from a file
    void *rows;            // (rows, layers, width)
    void *open;            // (layers, width) sums over the steps of the open row
} UtilizationSeries;

typedef struct UtilizationHistory {
    UtilizationSeries series[UTILIZATION_SERIES_MAX];
    int series_count;
    int64_t rows, capacity; // closed rows, room
    int64_t *step;          // (rows) last step that the row covers
    int64_t *steps;         // (rows) how many steps it covers
    int64_t open_steps;     // of the open row
} UtilizationHistory;

// A history of these columns, still without room for rows; those of the whole model are left out.
// Free with utilization_free (legal on a zeroed struct).
void utilization_shape(UtilizationHistory *history, const StatisticsColumn *columns, int count);
// Takes all the memory that the history will ever need (pages are touched as rows come); zeroed.
void utilization_allocate(UtilizationHistory *history);
void utilization_free(UtilizationHistory *history);

// Adds one step to the open row: the totals that the columns point into.
void utilization_add(UtilizationHistory *history, const double *sums, const int64_t *counts);
// Closes the open row as the row of `step` (nothing happens when it is empty). Does not allocate.
void utilization_close_row(UtilizationHistory *history, int64_t step);
// Goes on from a history read from a file, which must have the same layers in what both have;
// false with exit 4 otherwise. What only the file has is left behind with a warning; what it lacks,
// as files of earlier programs do, is unknown in its rows: zero counts, NaN otherwise.
bool utilization_continue(UtilizationHistory *history, const UtilizationHistory *from, Error *err);

// The series of a name, or NULL; a value of it as the type that its kind has.
const UtilizationSeries *utilization_find(const UtilizationHistory *history, const char *name);
static inline const int64_t *utilization_counts(const UtilizationSeries *series, int64_t row,
                                                int64_t layer) {
    return (const int64_t *)series->rows + (row * series->layers + layer) * series->width;
}
static inline const double *utilization_sums(const UtilizationSeries *series, int64_t row,
                                             int64_t layer) {
    return (const double *)series->rows + (row * series->layers + layer) * series->width;
}

// Rows that a history of this shape holds at most, and the bytes of all of it when they are full.
int64_t utilization_room(const UtilizationHistory *history);
size_t utilization_bytes(const UtilizationHistory *history);
// Makes room for at least `rows` closed rows, for a file that holds more; the present ones stay.
void utilization_reserve(UtilizationHistory *history, int64_t rows);

#endif
