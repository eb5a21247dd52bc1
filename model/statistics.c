#include "model/statistics.h"

#include <string.h>

enum { PER_LAYER = 3 }; // balance, z, entropy

static int64_t column_count(const Statistics *stats) {
    return 1 + stats->layers * (PER_LAYER + stats->experts);
}

void statistics_layout(Statistics *stats, const Work *work, Arena *arena) {
    stats->layers = model_moe_layers(work->config);
    stats->experts = work->config->moe.experts;
    int64_t columns = column_count(stats), cells = 2 * stats->layers * stats->experts;
    stats->sums = arena_2d(arena, F64, work->shards, columns);
    stats->sums_scratch = arena_1d(arena, F64, columns);
    stats->counts = arena_1d(arena, I64, cells);
    stats->counts_scratch = arena_1d(arena, I64, cells);
}

void statistics_clear(Statistics *stats) {
    memset(stats->sums.data, 0, tensor_bytes(stats->sums));
    if (stats->counts.data) memset(stats->counts.data, 0, tensor_bytes(stats->counts));
}

void statistics_reduce(Statistics *stats, Work *work) {
    int64_t columns = column_count(stats), shards = stats->sums.shape[0];
    double *sums = tensor_f64(stats->sums);
    // Row p takes in row p + distance: after each pass aligned blocks of 2·distance rows are summed.
    for (int64_t distance = 1; distance < shards; distance *= 2)
        for (int64_t p = 0; p + distance < shards; p += 2 * distance)
            for (int64_t c = 0; c < columns; c++)
                sums[p * columns + c] += sums[(p + distance) * columns + c];
    all_reduce_sum(work->groups.world, tensor_1d(sums, F64, columns), work->reduce_order,
                   stats->sums_scratch, TRAFFIC_STATISTICS);
    all_reduce_sum(work->groups.world, stats->counts, REDUCE_ANY_ORDER, stats->counts_scratch,
                   TRAFFIC_STATISTICS);
}

static double *cell(Statistics *stats, int64_t shard, int64_t column) {
    return tensor_f64(stats->sums) + shard * column_count(stats) + column;
}

double *statistics_loss(Statistics *stats, int64_t shard) {
    return cell(stats, shard, 0);
}
double *statistics_balance(Statistics *stats, int64_t shard, int64_t moe_layer) {
    return cell(stats, shard, 1 + moe_layer * PER_LAYER);
}
double *statistics_z(Statistics *stats, int64_t shard, int64_t moe_layer) {
    return cell(stats, shard, 1 + moe_layer * PER_LAYER + 1);
}
double *statistics_entropy(Statistics *stats, int64_t shard, int64_t moe_layer) {
    return cell(stats, shard, 1 + moe_layer * PER_LAYER + 2);
}
double *statistics_weight_mass(Statistics *stats, int64_t shard, int64_t moe_layer) {
    return cell(stats, shard, 1 + stats->layers * PER_LAYER + moe_layer * stats->experts);
}
int64_t *statistics_routed(Statistics *stats, int64_t moe_layer) {
    return tensor_i64(stats->counts) + moe_layer * stats->experts;
}
int64_t *statistics_dropped(Statistics *stats, int64_t moe_layer) {
    return tensor_i64(stats->counts) + (stats->layers + moe_layer) * stats->experts;
}
