#include "model/statistics.h"

#include <string.h>

enum { PER_LAYER = 3 }; // balance, z, entropy

// Columns of a shard's row, see the header.
static int64_t balance_column(int64_t moe_layer) {
    return STATISTICS_LOSS + 1 + moe_layer * PER_LAYER;
}
static int64_t weight_mass_column(const Statistics *stats, int64_t moe_layer) {
    return balance_column(stats->layers) + moe_layer * stats->experts;
}
static int64_t column_count(const Statistics *stats) {
    return weight_mass_column(stats, stats->layers);
}

void statistics_layout(Statistics *stats, const Work *work, Arena *arena) {
    stats->layers = model_moe_layers(work->config);
    stats->experts = layer_value(&work->config->moe.experts, 0);
    int64_t columns = column_count(stats), cells = 2 * stats->layers * stats->experts;
    stats->sums = arena_2d(arena, F64, work->micro_batches * work->shards, columns);
    stats->counts = arena_1d(arena, I64, cells);
    stats->host_sums = arena_mirror(work->host, stats->sums);
    stats->host_counts = arena_mirror(work->host, stats->counts);
    stats->sums_scratch = arena_2d(work->host, F64, work->micro_batches, columns);
}

void statistics_clear(Statistics *stats, Device *dev) {
    fill_zero(dev, stats->sums);
    fill_zero(dev, stats->counts);
}

Tensor statistics_rows(const Statistics *stats, const Work *work) {
    return tensor_rows(stats->sums, work->micro_batch * work->shards, work->shards);
}

RouterTotals statistics_router_totals(const Statistics *stats, const Work *work,
                                      int64_t moe_layer) {
    int64_t E = stats->experts;
    return (RouterTotals){
        .totals = statistics_rows(stats, work),
        .balance = balance_column(moe_layer),
        .weight_mass = weight_mass_column(stats, moe_layer),
        .routed = tensor_range(stats->counts, moe_layer * E, E),
        .dropped = tensor_range(stats->counts, (stats->layers + moe_layer) * E, E),
    };
}

// Row 0 becomes the sum of all as a binary tree: row p takes in row p + distance, and after each
// pass aligned blocks of 2·distance rows are summed.
static void sum_rows(double *sums, int64_t rows, int64_t columns) {
    for (int64_t distance = 1; distance < rows; distance *= 2)
        for (int64_t p = 0; p + distance < rows; p += 2 * distance)
            for (int64_t c = 0; c < columns; c++)
                sums[p * columns + c] += sums[(p + distance) * columns + c];
}

void statistics_reduce(Statistics *stats, Work *work) {
    int64_t columns = column_count(stats), micro_batches = work->micro_batches;
    device_download(work->dev, stats->host_sums, stats->sums);
    device_download(work->dev, stats->host_counts, stats->counts);
    double *sums = tensor_f64(stats->host_sums);
    for (int64_t m = 0; m < micro_batches; m++) {
        double *rows = sums + m * work->shards * columns;
        sum_rows(rows, work->shards, columns);
        if (m > 0) memmove(sums + m * columns, rows, (size_t)columns * sizeof *sums);
    }
    all_reduce_sum(work->groups.world, tensor_1d(sums, F64, micro_batches * columns),
                   work->reduce_order, stats->sums_scratch, TRAFFIC_STATISTICS);
    sum_rows(sums, micro_batches, columns);
    all_reduce_sum(work->groups.world, stats->host_counts, REDUCE_ANY_ORDER, (Tensor){0},
                   TRAFFIC_STATISTICS);
}

double statistics_loss(const Statistics *stats) {
    return tensor_f64(stats->host_sums)[STATISTICS_LOSS];
}
double statistics_balance(const Statistics *stats, int64_t moe_layer) {
    return tensor_f64(stats->host_sums)[balance_column(moe_layer)];
}
double statistics_z(const Statistics *stats, int64_t moe_layer) {
    return tensor_f64(stats->host_sums)[balance_column(moe_layer) + 1];
}
double statistics_entropy(const Statistics *stats, int64_t moe_layer) {
    return tensor_f64(stats->host_sums)[balance_column(moe_layer) + 2];
}
const double *statistics_weight_mass(const Statistics *stats, int64_t moe_layer) {
    return tensor_f64(stats->host_sums) + weight_mass_column(stats, moe_layer);
}
const int64_t *statistics_routed(const Statistics *stats, int64_t moe_layer) {
    return tensor_i64(stats->host_counts) + moe_layer * stats->experts;
}
const int64_t *statistics_dropped(const Statistics *stats, int64_t moe_layer) {
    return tensor_i64(stats->host_counts) + (stats->layers + moe_layer) * stats->experts;
}
