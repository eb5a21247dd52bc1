#include "model/query_norm.h"

#include <string.h>

static const double MOMENTUM = 0.1; // of the averages

void query_norm_declare(QueryNorm *norm, Work *work, int64_t layer, int64_t width,
                        const char *which) {
    norm->layer = layer;
    norm->width = width;
    norm->name = strcmp(which, "first") == 0 ? "peer_query_first" : "peer_query_second";
    Param average = {.rank = 1,
                     .shape = {width},
                     .init = INIT_ZEROS,
                     .group = GROUP_NO_DECAY,
                     .update = UPDATE_RULE};
    norm->mean = param_add(work->params, average, "peer.query_mean_%s", which);
    average.init = INIT_ONES;
    norm->variance = param_add(work->params, average, "peer.query_variance_%s", which);
}

void query_norm_layout(QueryNorm *norm, Work *work, Statistics *stats, Arena *activations) {
    norm->sums = statistics_of_rule(stats, norm->name, norm->layer, 2 * norm->width);
    if (!work->training) return;
    norm->batch.mean = arena_2d(activations, F32, work->shape.shards, norm->width);
    norm->batch.variance = arena_2d(activations, F32, work->shape.shards, norm->width);
    norm->host_mean = arena_mirror(work->host, work_value(work, norm->mean));
    norm->host_variance = arena_mirror(work->host, work_value(work, norm->variance));
}

void query_norm_forward(QueryNorm *norm, Work *work, Statistics *stats, Tensor queries) {
    ColumnMoments moments = norm->batch;
    if (work->training)
        column_moments(work->dev, moments, statistics_rows(stats, work), norm->sums, queries);
    else
        moments =
            (ColumnMoments){tensor_reshape_2d(work_value(work, norm->mean), 1, norm->width),
                            tensor_reshape_2d(work_value(work, norm->variance), 1, norm->width)};
    normalize_columns(work->dev, queries, queries, moments);
}

void query_norm_backward(const QueryNorm *norm, Work *work, Tensor dqueries, Tensor queries) {
    normalize_columns_backward(work->dev, dqueries, dqueries, queries, norm->batch.variance);
}

static float moved(float average, double by) {
    return (float)((1 - MOMENTUM) * average + MOMENTUM * by);
}

void query_norm_after_step(QueryNorm *norm, Work *work, const Statistics *stats) {
    const StatisticsColumn *column = statistics_find(stats, norm->name, norm->layer);
    const double *sums = statistics_sums_of(stats, column);
    double tokens = (double)(micro_batch_tokens(work) * work->shape.micro_batches);
    if (tokens < 2) return; // which have no variance
    device_download(work->dev, norm->host_mean, work_value(work, norm->mean));
    device_download(work->dev, norm->host_variance, work_value(work, norm->variance));
    float *means = tensor_f32(norm->host_mean), *variances = tensor_f32(norm->host_variance);
    for (int64_t c = 0; c < norm->width; c++) {
        double mean = sums[c] / tokens, square = sums[norm->width + c] / tokens;
        double variance = (square - mean * mean) * tokens / (tokens - 1);
        means[c] = moved(means[c], mean);
        variances[c] = moved(variances[c], variance > 0 ? variance : 0);
    }
    device_upload(work->dev, work_value(work, norm->mean), norm->host_mean);
    device_upload(work->dev, work_value(work, norm->variance), norm->host_variance);
}
