#include "model/router_balance.h"

#include "model/router_health.h"

#include <string.h>

// Parts over which f and P of the balance loss are taken: this rank's sequences or its shards.
static int64_t balance_parts(const Work *work) {
    int64_t parts = 0;
    switch (work->config->moe.balance_scope) {
    case BALANCE_SHARD:
    case BALANCE_BATCH: // whose f alone is of the whole micro-batch (account)
        parts = work->shape.shards;
        break;
    case BALANCE_SEQUENCE:
        parts = work->shape.B;
        break;
    }
    return parts;
}

void router_layout_sums(Router *router, Work *work, Arena *activations, Arena *scratch) {
    int64_t E = router->shape.experts, parts = balance_parts(work);
    router->balance = arena_2d(activations, F32, parts, E);
    router->scratch.sums = (RouterSums){
        .prob_sum = arena_2d(scratch, F64, parts, E),
        .entropy_sum = arena_1d(scratch, F64, parts),
        .lse2_sum = arena_1d(scratch, F64, parts),
        .weight_mass = arena_2d(scratch, F64, parts, E),
        .tokens_per_expert = arena_2d(scratch, I32, parts, E),
        .dropped = arena_2d(scratch, I32, parts, E),
    };
    router->scratch.batch_tokens_per_expert = arena_1d(scratch, I64, E);
}

// ---- statistics ---------------------------------------------------------------------------------

// Choices that were dropped, over all of them.
static double drop_rate(const Statistics *stats, const char *column) {
    int64_t choices = 0, dropped = 0;
    for (int i = 0; i < stats->column_count; i++) {
        const StatisticsColumn *routed = &stats->columns[i];
        if (strcmp(routed->name, column) != 0) continue;
        const int64_t *kept = statistics_counts_of(stats, routed);
        const int64_t *lost = statistics_count_values(stats, "dropped", routed->layer);
        for (int64_t e = 0; e < routed->count; e++) {
            choices += kept[e] + lost[e];
            dropped += lost[e];
        }
    }
    return (double)dropped / (double)choices;
}

// What was asked of the busiest expert over what was asked of the mean one, in the worst layer.
static double load_imbalance(const Statistics *stats, const char *column) {
    double worst = 0;
    for (int i = 0; i < stats->column_count; i++) {
        const StatisticsColumn *routed = &stats->columns[i];
        if (strcmp(routed->name, column) != 0) continue;
        const int64_t *kept = statistics_counts_of(stats, routed);
        const int64_t *lost = statistics_count_values(stats, "dropped", routed->layer);
        int64_t sum = 0, busiest = 0;
        for (int64_t e = 0; e < routed->count; e++) {
            int64_t load = kept[e] + lost[e];
            sum += load;
            busiest = load > busiest ? load : busiest;
        }
        double imbalance = (double)busiest * (double)routed->count / (double)sum;
        if (imbalance > worst) worst = imbalance;
    }
    return worst;
}

static const char BIAS_COLUMN[] = "router_bias";

static const Summary SUMMARIES[] = {
    {.field = "balance_loss",
     .digits = 17,
     .value = statistics_mean_over_layers,
     .column = "balance",
     .line = {" | balance ", .decimals = 3}},
    {.field = "z_loss",
     .digits = 17,
     .value = statistics_mean_over_layers,
     .column = "z",
     .line = {" z ", .decimals = 2}},
    {.field = "drop_rate",
     .digits = 9,
     .value = drop_rate,
     .column = "routed",
     .line = {" | drop ", .decimals = 1, .percent = true}},
    {.field = "load_imbalance",
     .digits = 9,
     .value = load_imbalance,
     .column = "routed",
     .line = {" load max/mean ", .decimals = 2}},
    {.field = "router_entropy_nats",
     .digits = 9,
     .value = statistics_mean_over_layers,
     .column = "entropy"},
};

void router_report(Router *router, const Work *work, Statistics *stats) {
    int64_t layer = router->layer, E = router->shape.experts;
    router->columns = (RouterColumns){
        .balance = statistics_scalar(stats, "balance", layer),
        .z = statistics_scalar(stats, "z", layer),
        .entropy = statistics_scalar(stats, "entropy", layer),
        .weight_mass = statistics_vector(stats, "weight_mass", layer, E),
        .routed = statistics_counts(stats, "routed", layer, E),
        .dropped = statistics_counts(stats, "dropped", layer, E),
    };
    if (router->bias >= 0) statistics_state(stats, BIAS_COLUMN, layer, router_bias(router, work));
    for (size_t i = 0; i < sizeof SUMMARIES / sizeof *SUMMARIES; i++)
        statistics_summarize(stats, &SUMMARIES[i]);
    router_health_summarize(stats, router->bias >= 0);
}

void router_count_evaluation(const Router *router, Work *work, Statistics *stats) {
    if (work->step.counted_tokens == 0) return;
    count_ids(work->dev,
              statistics_count_range(stats, router->columns.routed, router->shape.experts),
              tensor_rows(router->ids, 0, work->step.counted_tokens));
}

// Where an op adds them up.
static RouterTotals columns_in(const Statistics *stats, const Work *work, const Router *router) {
    RouterColumns columns = router->columns;
    int64_t E = router->shape.experts;
    return (RouterTotals){
        .totals = statistics_rows(stats, work),
        .balance = columns.balance,
        .z = columns.z,
        .entropy = columns.entropy,
        .weight_mass = columns.weight_mass,
        .routed = statistics_count_range(stats, columns.routed, E),
        .dropped = statistics_count_range(stats, columns.dropped, E),
    };
}

double router_per_step_token(const Work *work) {
    return 1.0 / (double)(micro_batch_tokens(work) * work->shape.micro_batches);
}

// f_i, the share of choices that went to expert i before dropping, for each part; times E over the
// tokens of the step, so that its product with Σ P over the part's tokens is the part's share of
// E·Σ f_i·P_i. The gradient's coefficient is α times that; there is none through f (semantics:
// Switch, arXiv:2101.03961, eq. 4).
void router_add_statistics(Router *router, Work *work, Statistics *stats) {
    const MoeConfig *moe = &work->config->moe;
    int64_t parts = balance_parts(work);
    BalanceRule rule = {
        .coefficient = moe->balance_loss,
        .per_step_token = router_per_step_token(work),
        .choices = (double)(router->shape.top_k * (work->shape.N / parts)),
    };
    Tensor batch_tokens_per_expert = {0};
    if (moe->balance_scope == BALANCE_BATCH) {
        batch_tokens_per_expert = router->scratch.batch_tokens_per_expert;
        sum_columns(work->dev, batch_tokens_per_expert, router->scratch.sums.tokens_per_expert);
        all_reduce_sum(work->groups.world, batch_tokens_per_expert, REDUCE_ANY_ORDER, (Tensor){0},
                       TRAFFIC_STATISTICS);
        rule.choices *= (double)(parts * work->shape.ranks);
    }
    router_totals(work->dev, columns_in(stats, work, router), router->balance, router->scratch.sums,
                  batch_tokens_per_expert, rule);
}

// ---- bias ---------------------------------------------------------------------------------------

void router_declare_bias(Router *router, Work *work) {
    router->bias = -1;
    switch (work->config->moe.bias_update) {
    case BIAS_UPDATE_NONE:
        break;
    case BIAS_UPDATE_SIGN:
        router->bias = param_add(work->params,
                                 (Param){.rank = 1,
                                         .shape = {router->shape.experts},
                                         .init = INIT_ZEROS,
                                         .group = GROUP_NO_DECAY,
                                         .update = UPDATE_RULE},
                                 "layers.%lld.moe.router_bias", (long long)router->layer);
        break;
    }
}

Tensor router_bias(const Router *router, const Work *work) {
    return router->bias < 0 ? (Tensor){0} : work_value(work, router->bias);
}

// -1, 0 or 1: how c compares with its mean over E experts that have `total` together.
static int below_mean(int64_t c, int64_t total, int64_t E) {
    return (total > E * c) - (total < E * c);
}

void router_after_step(Router *router, Work *work, const Statistics *stats) {
    if (router->bias < 0) return;
    const StatisticsColumn *column = statistics_find(stats, BIAS_COLUMN, router->layer);
    const double *before = statistics_sums_of(stats, column);
    const int64_t *routed = tensor_i64(stats->host_counts) + router->columns.routed;
    const int64_t *dropped = tensor_i64(stats->host_counts) + router->columns.dropped;
    int64_t E = router->shape.experts, total = 0;
    double rate = work->config->moe.bias_rate, sum = 0;
    for (int64_t e = 0; e < E; e++) total += routed[e] + dropped[e];
    for (int64_t e = 0; e < E; e++)
        sum += before[e] + rate * below_mean(routed[e] + dropped[e], total, E);
    float *after = tensor_f32(column->host_state);
    for (int64_t e = 0; e < E; e++) {
        double moved = before[e] + rate * below_mean(routed[e] + dropped[e], total, E);
        after[e] = (float)(moved - sum / (double)E);
    }
    device_upload(work->dev, router_bias(router, work), column->host_state);
}
