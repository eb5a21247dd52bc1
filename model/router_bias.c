#include "model/router_bias.h"

// What multiplies u in a step: 1, falling linearly to 0 over the last decay_steps of `steps`.
static double schedule(const MoeConfig *moe, int64_t step) {
    int64_t left = moe->bias_steps - step;
    if (moe->bias_steps == 0) return 1;
    if (left <= 0) return 0;
    return left >= moe->bias_decay_steps ? 1 : (double)left / (double)moe->bias_decay_steps;
}

// ---- by load ------------------------------------------------------------------------------------

// -1, 0 or 1: how c compares with its mean over E experts that have `total` together.
static double below_mean(int64_t c, int64_t total, int64_t E) {
    return (double)((total > E * c) - (total < E * c));
}

static double share_below_mean(int64_t c, int64_t total, int64_t E) {
    return total > 0 ? (double)(total - E * c) / (double)total : 0;
}

// The step's choices of an expert before dropping.
static int64_t load_of(const Router *router, const Statistics *stats, int64_t e) {
    const int64_t *counts = tensor_i64(stats->host_counts);
    int64_t lost = e < router->shape.experts ? counts[router->columns.dropped + e] : 0;
    return counts[router->columns.routed + e] + lost;
}

typedef double Pull(int64_t c, int64_t total, int64_t E);

static void move_by_load(const Router *router, const Statistics *stats, float *after,
                         const double *before, double rate, Pull *pull) {
    int64_t E = router->shape.scored, total = 0;
    double sum = 0;
    for (int64_t e = 0; e < E; e++) total += load_of(router, stats, e);
    for (int64_t e = 0; e < E; e++)
        sum += before[e] + rate * pull(load_of(router, stats, e), total, E);
    for (int64_t e = 0; e < E; e++) {
        double moved = before[e] + rate * pull(load_of(router, stats, e), total, E);
        after[e] = (float)(moved - sum / (double)E);
    }
}

// ---- by quantile --------------------------------------------------------------------------------

static void move_by_quantile(Router *router, Work *work, float *after, const double *before,
                             double weight) {
    int64_t E = router->shape.scored, K = router->shape.top_k;
    int64_t tokens = micro_batch_tokens(work) * work->shape.micro_batches;
    all_reduce_sum(work->groups.world, router->quantiles, REDUCE_ANY_ORDER, (Tensor){0},
                   TRAFFIC_STATISTICS);
    device_download(work->dev, router->host_quantiles, router->quantiles);
    for (int64_t e = 0; e < E; e++) {
        const int64_t *counts = tensor_i64(router->host_quantiles) + e * QUANTILE_BINS;
        double beta = quantile_largest(counts, tokens * K / E + 1);
        after[e] = (float)(before[e] + weight * (-beta - before[e]));
    }
}

// ---- the front ----------------------------------------------------------------------------------

void router_declare_bias(Router *router, Work *work) {
    router->bias = -1;
    if (work->config->moe.bias_update == BIAS_UPDATE_NONE) return;
    router->bias = param_add(work->params,
                             (Param){.rank = 1,
                                     .shape = {router->shape.scored},
                                     .init = INIT_ZEROS,
                                     .group = GROUP_NO_DECAY,
                                     .update = UPDATE_RULE},
                             "%s.router_bias", ROUTER_NAMES[router->place].params);
}

void router_layout_bias(Router *router, Work *work, Arena *activations) {
    bool watches = router->bias >= 0 && work->config->moe.bias_update == BIAS_UPDATE_QUANTILE;
    if (!watches || !work->training) return;
    router->quantiles = arena_2d(activations, I64, router->shape.scored, QUANTILE_BINS);
    router->host_quantiles = arena_mirror(work->host, router->quantiles);
}

Tensor router_bias(const Router *router, const Work *work) {
    return router->bias < 0 ? (Tensor){0} : work_value(work, router->bias);
}

void router_watch_scores(Router *router, Work *work) {
    if (router->quantiles.rank == 0) return;
    if (work->step.micro_batch == 0) fill_zero(work->dev, router->quantiles);
    quantile_counts(work->dev, router->quantiles, router->logits, router->lse,
                    router_bias(router, work), router->shape.top_k, work->config->moe.router);
}

void router_after_step(Router *router, Work *work, const Statistics *stats) {
    const MoeConfig *moe = &work->config->moe;
    double by = schedule(moe, (int64_t)work->step.number);
    if (router->bias < 0 || by == 0) return;
    const StatisticsColumn *column =
        statistics_find(stats, ROUTER_NAMES[router->place].bias, router->layer);
    const double *before = statistics_sums_of(stats, column);
    float *after = tensor_f32(column->host_state);
    switch (moe->bias_update) {
    case BIAS_UPDATE_NONE:
        return;
    case BIAS_UPDATE_SIGN:
        move_by_load(router, stats, after, before, by * moe->bias_rate, below_mean);
        break;
    case BIAS_UPDATE_PROPORTIONAL:
        move_by_load(router, stats, after, before, by * moe->bias_rate, share_below_mean);
        break;
    case BIAS_UPDATE_QUANTILE:
        move_by_quantile(router, work, after, before, by * (1 - moe->bias_ema));
        break;
    }
    device_upload(work->dev, router_bias(router, work), column->host_state);
}

double router_bias_sent_bytes(const Router *router, const Work *work) {
    if (router->quantiles.rank == 0) return 0;
    return (double)all_reduce_sum_sent_bytes(
        (int)work->shape.ranks, tensor_elements(router->quantiles), I64, REDUCE_ANY_ORDER);
}
