#include "model/statistics.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/integers.h"

// ---- columns ------------------------------------------------------------------------------------

// The layout runs twice: what was asked for while measuring stays in the list to compare with.
static void check_repeats(const StatisticsColumn *measured, const StatisticsColumn *column) {
    CHECK(strcmp(measured->name, column->name) == 0 && measured->layer == column->layer &&
              measured->kind == column->kind && measured->count == column->count,
          "the second layout asks for %s of layer %lld where the first asked for %s of layer %lld",
          column->name, (long long)column->layer, measured->name, (long long)measured->layer);
}

static int add_column(Statistics *stats, StatisticsKind kind, const char *name, int64_t layer,
                      int64_t count) {
    int *width = kind == STATISTICS_COUNTS ? &stats->count_width : &stats->width;
    CHECK(!statistics_find(stats, name, layer), "layer %lld has a column %s already",
          (long long)layer, name);
    CHECK(count >= 0 && count < INT32_MAX - *width && strlen(name) < STATISTICS_NAME_BYTES,
          "a column %s of %lld", name, (long long)count);
    StatisticsColumn column = {.layer = layer, .kind = kind, .first = *width, .count = count};
    snprintf(column.name, sizeof column.name, "%s", name);
    if (stats->column_count == stats->columns_room) {
        stats->columns_room = stats->columns_room > 0 ? 2 * stats->columns_room : 32;
        size_t bytes = (size_t)stats->columns_room * sizeof *stats->columns;
        stats->columns = realloc(stats->columns, bytes);
        CHECK_MEMORY(stats->columns, "no memory for %d columns of statistics", stats->columns_room);
    }
    StatisticsColumn *at = &stats->columns[stats->column_count];
    if (stats->column_count < stats->columns_measured) check_repeats(at, &column);
    *at = column;
    stats->column_count++;
    *width += (int)count;
    return column.first;
}

void statistics_begin(Statistics *stats) {
    stats->columns_measured = stats->column_count;
    stats->column_count = stats->summary_count = stats->width = stats->count_width = 0;
    statistics_scalar(stats, "loss", STATISTICS_MODEL);
}

int statistics_scalar(Statistics *stats, const char *name, int64_t layer) {
    return add_column(stats, STATISTICS_SCALAR, name, layer, 1);
}
int statistics_vector(Statistics *stats, const char *name, int64_t layer, int64_t n) {
    return add_column(stats, STATISTICS_VECTOR, name, layer, n);
}
int statistics_of_rule(Statistics *stats, const char *name, int64_t layer, int64_t n) {
    return add_column(stats, STATISTICS_RULE, name, layer, n);
}
int statistics_counts(Statistics *stats, const char *name, int64_t layer, int64_t n) {
    return add_column(stats, STATISTICS_COUNTS, name, layer, n);
}

int statistics_max(Statistics *stats, const char *name, int64_t layer, int64_t n) {
    return add_column(stats, STATISTICS_MAX, name, layer, n);
}

int statistics_state(Statistics *stats, const char *name, int64_t layer, Tensor state) {
    int first = add_column(stats, STATISTICS_STATE, name, layer, tensor_elements(state));
    stats->columns[stats->column_count - 1].state = state;
    return first;
}

void statistics_summarize(Statistics *stats, const Summary *summary) {
    for (int i = 0; i < stats->summary_count; i++)
        if (stats->summaries[i] == summary) return;
    CHECK(stats->summary_count < STATISTICS_SUMMARIES_MAX, "more than %d figures of a step",
          STATISTICS_SUMMARIES_MAX);
    stats->summaries[stats->summary_count++] = summary;
}

static bool has_maxima(const Statistics *stats) {
    for (int i = 0; i < stats->column_count; i++)
        if (stats->columns[i].kind == STATISTICS_MAX) return true;
    return false;
}

void statistics_layout(Statistics *stats, const Work *work, Arena *arena) {
    stats->sums =
        arena_2d(arena, F64, work->shape.micro_batches * work->shape.shards, stats->width);
    stats->counts = arena_1d(arena, I64, stats->count_width);
    stats->host_sums = arena_mirror(work->host, stats->sums);
    stats->host_counts = arena_mirror(work->host, stats->counts);
    int64_t rows = work->shape.micro_batches, room = rows * stats->width;
    stats->node_sums = arena_2d(work->host, F64, work->shape.most_nodes - 1, room);
    room = larger(room, tree_sum_scratch_elements(work->shape.deal, room));
    stats->sums_scratch = arena_1d(work->host, F64, room);
    if (has_maxima(stats)) stats->maxima = arena_1d(work->host, F64, stats->width);
    for (int i = 0; i < stats->column_count; i++)
        if (stats->columns[i].kind == STATISTICS_STATE)
            stats->columns[i].host_state = arena_mirror(work->host, stats->columns[i].state);
}

void statistics_free(Statistics *stats) {
    free(stats->columns);
    *stats = (Statistics){0};
}

// ---- adding up ----------------------------------------------------------------------------------

void statistics_clear(Statistics *stats, Device *dev) {
    fill_zero(dev, stats->sums);
    fill_zero(dev, stats->counts);
}

Tensor statistics_rows(const Statistics *stats, const Work *work) {
    return tensor_rows(stats->sums, work->step.micro_batch * work->shape.shards,
                       work->shape.shards);
}

Tensor statistics_count_range(const Statistics *stats, int first, int64_t n) {
    return tensor_range(stats->counts, first, n);
}

// Row 0 becomes the sum of all as a binary tree: row p takes in row p + distance, and after each
// pass aligned blocks of 2·distance rows are summed.
static void sum_rows(double *sums, int64_t rows, int64_t columns) {
    for (int64_t distance = 1; distance < rows; distance *= 2)
        for (int64_t p = 0; p + distance < rows; p += 2 * distance)
            for (int64_t c = 0; c < columns; c++)
                sums[p * columns + c] += sums[(p + distance) * columns + c];
}

// Takes the maxima over all rows and ranks. What is summed after it does not count there.
static void reduce_maxima(Statistics *stats, Work *work) {
    if (!has_maxima(stats)) return;
    const double *rows = tensor_f64(stats->host_sums);
    double *maxima = tensor_f64(stats->maxima);
    for (int64_t c = 0; c < stats->width; c++) maxima[c] = rows[c];
    for (int64_t row = 1; row < stats->host_sums.shape[0]; row++)
        for (int64_t c = 0; c < stats->width; c++)
            maxima[c] = fmax(maxima[c], rows[row * stats->width + c]);
    all_reduce_max(work->groups.world, stats->maxima, TRAFFIC_STATISTICS);
}

static void write_maxima(Statistics *stats) {
    for (int i = 0; i < stats->column_count; i++) {
        const StatisticsColumn *column = &stats->columns[i];
        if (column->kind != STATISTICS_MAX) continue;
        memcpy(tensor_f64(stats->host_sums) + column->first,
               tensor_f64(stats->maxima) + column->first, (size_t)column->count * sizeof(double));
    }
}

static void read_states(Statistics *stats, Device *dev) {
    for (int i = 0; i < stats->column_count; i++) {
        const StatisticsColumn *column = &stats->columns[i];
        if (column->kind != STATISTICS_STATE) continue;
        device_download(dev, column->host_state, column->state);
        double *to = tensor_f64(stats->host_sums) + column->first;
        for (int64_t k = 0; k < column->count; k++)
            to[k] = (double)tensor_f32(column->host_state)[k];
    }
}

void statistics_reduce_counts(Statistics *stats, Work *work) {
    device_download(work->dev, stats->host_counts, stats->counts);
    all_reduce_sum(work->groups.world, stats->host_counts, REDUCE_ANY_ORDER, (Tensor){0},
                   TRAFFIC_STATISTICS);
    write_maxima(stats);
    read_states(stats, work->dev);
}

// Sums over all ranks' shards of each micro-batch from those over this rank's nodes.
static void sum_over_ranks(Statistics *stats, Work *work, Tensor sums) {
    Tensor others[SHARD_NODES_MAX];
    if (work->shape.reduce_order != REDUCE_FIXED_TREE) {
        all_reduce_sum(work->groups.world, sums, work->shape.reduce_order, (Tensor){0},
                       TRAFFIC_STATISTICS);
        return;
    }
    for (int i = 0; i < work->shape.node_count - 1; i++)
        others[i] = tensor_rows(stats->node_sums, i, 1);
    Pending pending = tree_sum_begin(work->groups.world, sums,
                                     (TreeShare){work->shape.deal, others, stats->sums_scratch},
                                     TRAFFIC_STATISTICS);
    collective_wait(&pending);
}

void statistics_reduce(Statistics *stats, Work *work) {
    int64_t columns = stats->width, micro_batches = work->shape.micro_batches;
    device_download(work->dev, stats->host_sums, stats->sums);
    reduce_maxima(stats, work);
    double *sums = tensor_f64(stats->host_sums), *others = tensor_f64(stats->node_sums);
    int64_t shards_of_part = work->shape.shards / work->shape.dense_parts;
    for (int64_t m = 0; m < micro_batches; m++)
        for (int node = 0; node < work->shape.node_count; node++) {
            ShardRun parts = work->shape.nodes[node];
            double *rows = sums + (m * work->shape.shards + shards_of_part * parts.first) * columns;
            double *to = node == 0 ? sums : others + (node - 1) * micro_batches * columns;
            sum_rows(rows, shards_of_part * parts.count, columns);
            if (to + m * columns != rows)
                memmove(to + m * columns, rows, (size_t)columns * sizeof *sums);
        }
    sum_over_ranks(stats, work, tensor_1d(sums, F64, micro_batches * columns));
    sum_rows(sums, micro_batches, columns);
    statistics_reduce_counts(stats, work);
}

int64_t statistics_sent_bytes(const Statistics *stats, const Work *work) {
    int64_t elements = work->shape.micro_batches * stats->width;
    int ranks = (int)work->shape.ranks;
    int64_t maxima = has_maxima(stats)
                         ? all_reduce_sum_sent_bytes(ranks, stats->width, F64, REDUCE_ANY_ORDER)
                         : 0;
    if (work->shape.reduce_order == REDUCE_FIXED_TREE)
        return maxima + tree_sum_sent_bytes(work->shape.deal, elements, F64);
    return maxima + all_reduce_sum_sent_bytes(ranks, elements, F64, REDUCE_ANY_ORDER);
}

// ---- the totals ---------------------------------------------------------------------------------

const StatisticsColumn *statistics_find(const Statistics *stats, const char *name, int64_t layer) {
    for (int i = 0; i < stats->column_count; i++)
        if (stats->columns[i].layer == layer && strcmp(stats->columns[i].name, name) == 0)
            return &stats->columns[i];
    return NULL;
}

const double *statistics_sums_of(const Statistics *stats, const StatisticsColumn *column) {
    CHECK(column->kind != STATISTICS_COUNTS, "%s is counts", column->name);
    return tensor_f64(stats->host_sums) + column->first;
}
const int64_t *statistics_counts_of(const Statistics *stats, const StatisticsColumn *column) {
    CHECK(column->kind == STATISTICS_COUNTS, "%s is no counts", column->name);
    return tensor_i64(stats->host_counts) + column->first;
}

static const StatisticsColumn *find_column(const Statistics *stats, const char *name,
                                           int64_t layer) {
    const StatisticsColumn *column = statistics_find(stats, name, layer);
    CHECK(column, "layer %lld has no column %s", (long long)layer, name);
    return column;
}

double statistics_value(const Statistics *stats, const char *name, int64_t layer) {
    return statistics_sums_of(stats, find_column(stats, name, layer))[0];
}
const int64_t *statistics_count_values(const Statistics *stats, const char *name, int64_t layer) {
    return statistics_counts_of(stats, find_column(stats, name, layer));
}
double statistics_loss(const Statistics *stats) {
    return tensor_f64(stats->host_sums)[STATISTICS_LOSS];
}

static Figures figures_of(const Statistics *stats, bool evaluation) {
    Figures figures = {0};
    for (int i = 0; i < stats->summary_count; i++) {
        const Summary *summary = stats->summaries[i];
        if (evaluation && !summary->of_evaluation) continue;
        figures.of[figures.count].summary = summary;
        figures.of[figures.count++].value = summary->value(stats, summary->column);
    }
    return figures;
}
Figures statistics_figures(const Statistics *stats) {
    return figures_of(stats, false);
}
Figures statistics_evaluation_figures(const Statistics *stats) {
    return figures_of(stats, true);
}

double statistics_mean_over_layers(const Statistics *stats, const char *column) {
    double mean = 0, layers = 0;
    for (int i = 0; i < stats->column_count; i++)
        if (strcmp(stats->columns[i].name, column) == 0) layers++;
    for (int i = 0; i < stats->column_count; i++)
        if (strcmp(stats->columns[i].name, column) == 0)
            mean += statistics_sums_of(stats, &stats->columns[i])[0] / layers;
    return mean;
}
