// What a training step reports, gathered so that it is the same on any number of ranks.
//
// Layers ask for named columns while the model is laid out and keep the numbers that they get: a
// scalar (a mean over the step's tokens), a vector of sums in f64, or counts in i64. Whoever tells
// a user about them (metrics, the utilization history, inspect) goes through them by name and layer
// and knows no layer. Layers may have columns of different lengths, and different columns.
//
// Every shard of the step has its own row of scalars and vectors; ops add to them on the device,
// and nobody waits. At the end the host fetches them and adds the rows as the fixed binary tree
// over shards: those of a micro-batch on the rank, node by node, then across ranks, then the
// micro-batches.
// Counts are integers and need no order.
#ifndef MOETRAIN_MODEL_STATISTICS_H
#define MOETRAIN_MODEL_STATISTICS_H

#include "model/work.h"

typedef enum StatisticsKind {
    STATISTICS_SCALAR, // f64, a mean over the tokens of the step: steps are averaged
    STATISTICS_VECTOR, // f64, a sum over the tokens of the step, as the counts are
    STATISTICS_COUNTS, // i64
    STATISTICS_MAX,    // f64, the largest over the tokens of the step, as of several steps
    STATISTICS_STATE,  // f64, a vector of the layer as it was in the step: steps are averaged
    STATISTICS_RULE,   // f64, a sum over the tokens of the step for the layer's own rule alone
} StatisticsKind;

enum { STATISTICS_NAME_BYTES = 32, STATISTICS_SUMMARIES_MAX = 32 };
enum { STATISTICS_MODEL = -1 }; // in place of a layer: of the whole model
enum { STATISTICS_LOSS = 0 };   // the first column, "loss": mean cross-entropy of the step

typedef struct StatisticsColumn {
    char name[STATISTICS_NAME_BYTES];
    int64_t layer; // of the model, from 0; or STATISTICS_MODEL
    StatisticsKind kind;
    int first;     // its first place among the columns of `sums`, or among the counts
    int64_t count; // places; 1 for a scalar
    // STATISTICS_STATE: (count) f32 on the device, and its mirror on the host.
    Tensor state, host_state;
} StatisticsColumn;

typedef struct Statistics Statistics;

// One figure of metrics.jsonl, and of the step's line, made of the columns of all layers.
typedef struct Summary {
    const char *field; // in metrics.jsonl, with the unit
    int digits;        // significant ones there
    // From the totals; `column` as below.
    double (*value)(const Statistics *stats, const char *column);
    const char *column; // what it is made of, for `value`
    struct {
        const char *before; // what stands in front of the figure; NULL: it is not in the line
        int decimals;
        bool percent;
    } line;
    bool of_evaluation; // made of counts alone, it is told of a whole evaluation, too
} Summary;

// What is told, in the order in which layers had it told.
typedef struct Figures {
    int count;
    struct {
        const Summary *summary;
        double value;
    } of[STATISTICS_SUMMARIES_MAX];
} Figures;

struct Statistics {
    StatisticsColumn *columns; // in the order in which they were asked for
    int column_count, columns_measured, columns_room;
    const Summary *summaries[STATISTICS_SUMMARIES_MAX];
    int summary_count;
    int width, count_width; // of a row of sums, of the counts
    Tensor sums;   // (micro-batches · S, width) f64, S this rank's shards of a micro-batch
    Tensor counts; // (count_width) i64
    // The host's mirrors; row 0 holds the totals after statistics_reduce.
    Tensor host_sums, host_counts;
    Tensor sums_scratch; // f64 on the host, of the sum over ranks: (micro-batches · width) or more
    Tensor node_sums; // (most_nodes - 1, micro-batches · width) likewise: of nodes but the first
    Tensor maxima;    // (width) f64 on the host: scratch of the columns that are maxima
};

// ---- asking for columns, while the model is laid out --------------------------------------------

// Begins a layout: only the loss has a column. The second layout must ask for the same columns in
// the same order (fatal otherwise), so that they have the same numbers.
void statistics_begin(Statistics *stats);
// A new column of a layer, whose names are different; returns its first place. The name is one word
// of letters, digits and "_", which users will see.
int statistics_scalar(Statistics *stats, const char *name, int64_t layer);
int statistics_vector(Statistics *stats, const char *name, int64_t layer, int64_t n);
int statistics_counts(Statistics *stats, const char *name, int64_t layer, int64_t n);
// A vector of maxima: every shard of every micro-batch writes its own (segment_max).
int statistics_max(Statistics *stats, const char *name, int64_t layer, int64_t n);
// A vector that the layer asks for after the step and nobody else is told.
int statistics_of_rule(Statistics *stats, const char *name, int64_t layer, int64_t n);
// Of a tensor (n) f32 that is the same on every rank, read at the end of the step: nobody adds it
// up.
int statistics_state(Statistics *stats, const char *name, int64_t layer, Tensor state);
// Has a figure told at each step, in the order of the first calls; calls with the same one are one.
void statistics_summarize(Statistics *stats, const Summary *summary);
// After the last column: takes the memory.
void statistics_layout(Statistics *stats, const Work *work, Arena *arena);
void statistics_free(Statistics *stats); // the list of columns; legal on a zeroed struct

// ---- adding up ----------------------------------------------------------------------------------

void statistics_clear(Statistics *stats, Device *dev);
// The rows of the present micro-batch's shards (S, width): a column's place is its first column.
Tensor statistics_rows(const Statistics *stats, const Work *work);
// Counts (n) of a column, by its first place.
Tensor statistics_count_range(const Statistics *stats, int first, int64_t n);
// Sums over all shards, on every rank and on the host. Collective over world.
void statistics_reduce(Statistics *stats, Work *work);
// The same of counts and states alone: all that there is after an evaluation, which adds up
// nothing else. Collective over world.
void statistics_reduce_counts(Statistics *stats, Work *work);
// Bytes that the rank that sends most sends of sums, without the counts. Not collective.
int64_t statistics_sent_bytes(const Statistics *stats, const Work *work);

// ---- the totals of a step, after statistics_reduce ----------------------------------------------

// The column of a layer, or NULL when it has none of that name.
const StatisticsColumn *statistics_find(const Statistics *stats, const char *name, int64_t layer);
// Its totals (count), borrowed: of a scalar or vector, and of counts.
const double *statistics_sums_of(const Statistics *stats, const StatisticsColumn *column);
const int64_t *statistics_counts_of(const Statistics *stats, const StatisticsColumn *column);
// The same by name; fatal when there is no such column.
double statistics_value(const Statistics *stats, const char *name, int64_t layer);
const int64_t *statistics_count_values(const Statistics *stats, const char *name, int64_t layer);
double statistics_loss(const Statistics *stats);
// The figures of the step, or those of an evaluation.
Figures statistics_figures(const Statistics *stats);
Figures statistics_evaluation_figures(const Statistics *stats);

// A rule for summaries: the mean of a scalar over the layers that have it.
double statistics_mean_over_layers(const Statistics *stats, const char *column);

#endif
