#include "model/router_health.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

RouterHealth router_health(const int64_t *routed, const int64_t *dropped, int64_t E) {
    RouterHealth health = {0};
    int64_t sum = 0, busiest = 0;
    for (int64_t e = 0; e < E; e++) {
        int64_t load = routed[e] + (dropped ? dropped[e] : 0);
        sum += load;
        busiest = load > busiest ? load : busiest;
        health.dead += load == 0;
    }
    if (sum == 0) return health;
    double mean = (double)sum / (double)E, squares = 0, entropy = 0;
    for (int64_t e = 0; e < E; e++) {
        double load = (double)(routed[e] + (dropped ? dropped[e] : 0));
        squares += (load - mean) * (load - mean);
        if (load > 0) entropy -= load / (double)sum * log(load / (double)sum);
    }
    health.max_vio = (double)busiest / mean - 1;
    health.cv = sqrt(squares / (double)E) / mean;
    health.effective = exp(entropy) / (double)E;
    return health;
}

void router_health_of_layer(RouterHealth health, int64_t E, char text[128]) {
    snprintf(text, 128, "max_vio %.3f, cv %.3f, dead %lld (%.1f%%), effective %.1f%%",
             health.max_vio, health.cv, (long long)health.dead,
             E > 0 ? 100.0 * (double)health.dead / (double)E : 0.0, 100.0 * health.effective);
}

static const StatisticsColumn *next_of(const Statistics *stats, const char *routed, int *i,
                                       RouterHealth *health) {
    while (*i < stats->column_count) {
        const StatisticsColumn *column = &stats->columns[(*i)++];
        if (strcmp(column->name, routed) != 0) continue;
        if (health)
            *health = router_health(statistics_counts_of(stats, column),
                                    router_dropped(stats, column), column->count);
        return column;
    }
    return NULL;
}

const StatisticsColumn *router_health_next(const Statistics *stats, RouterPlace place, int *i,
                                           RouterHealth *health) {
    return next_of(stats, ROUTER_NAMES[place].routed, i, health);
}

// ---- over layers --------------------------------------------------------------------------------

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double percentile(double *values, int64_t n, double p) {
    CHECK(n >= 1 && p > 0 && p <= 100, "percentile %g of %lld values", p, (long long)n);
    qsort(values, (size_t)n, sizeof *values, ascending);
    int64_t rank = (int64_t)ceil(p / 100 * (double)n);
    return values[rank < 1 ? 0 : rank - 1];
}

void router_health_over_layers(double *max_vio, int64_t layers, char text[96]) {
    text[0] = 0;
    if (layers == 0) return;
    double median = percentile(max_vio, layers, 50), high = percentile(max_vio, layers, 90);
    snprintf(text, 96, "max_vio over layers: p50 %.3f, p90 %.3f, max %.3f", median, high,
             max_vio[layers - 1]);
}

static double largest_max_vio(const Statistics *stats, const char *routed) {
    RouterHealth health;
    double worst = 0;
    for (int i = 0; next_of(stats, routed, &i, &health);) worst = fmax(worst, health.max_vio);
    return worst;
}

static double mean_max_vio(const Statistics *stats, const char *routed) {
    RouterHealth health;
    double sum = 0, layers = 0;
    for (int i = 0; next_of(stats, routed, &i, &health); layers++) sum += health.max_vio;
    return layers > 0 ? sum / layers : 0;
}

static double dead_experts(const Statistics *stats, const char *routed) {
    RouterHealth health;
    int64_t dead = 0;
    for (int i = 0; next_of(stats, routed, &i, &health);) dead += health.dead;
    return (double)dead;
}

static double largest_magnitude(const Statistics *stats, const char *name) {
    double largest = 0;
    for (int i = 0; i < stats->column_count; i++) {
        const StatisticsColumn *column = &stats->columns[i];
        if (strcmp(column->name, name) != 0) continue;
        const double *values = statistics_sums_of(stats, column);
        for (int64_t k = 0; k < column->count; k++) largest = fmax(largest, fabs(values[k]));
    }
    return largest;
}

static double root_of_mean_squares(const Statistics *stats, const char *name) {
    double sum = 0, layers = 0;
    for (int i = 0; i < stats->column_count; i++) {
        const StatisticsColumn *column = &stats->columns[i];
        if (strcmp(column->name, name) != 0) continue;
        double root = root_mean_square(statistics_counts_of(stats, column));
        sum += root * root;
        layers++;
    }
    return layers > 0 ? sqrt(sum / layers) : 0;
}

#define OF_LOADS(before, routed)                                                                   \
    {.field = before "max_vio",                                                                    \
     .digits = 9,                                                                                  \
     .value = largest_max_vio,                                                                     \
     .column = routed,                                                                             \
     .of_evaluation = true},                                                                       \
        {.field = before "max_vio_mean",                                                           \
         .digits = 9,                                                                              \
         .value = mean_max_vio,                                                                    \
         .column = routed,                                                                         \
         .of_evaluation = true},                                                                   \
    {                                                                                              \
        .field = before "dead_experts", .digits = 15, .value = dead_experts, .column = routed,     \
        .of_evaluation = true                                                                      \
    }
static const Summary LOADS[][3] = {
    [ROUTER_OF_FEED_FORWARD] = {OF_LOADS("", "routed")},
    [ROUTER_OF_MIXER] = {OF_LOADS("attention_", "attention_routed")},
    [ROUTER_OF_VALUES] = {OF_LOADS("value_", "value_routed")},
    [ROUTER_OF_OUTPUTS] = {OF_LOADS("output_", "output_routed")},
    [ROUTER_OF_SLOTS] = {OF_LOADS("combine_", "combine_mass")},
    [ROUTER_OF_KEYS] = {OF_LOADS("peer_", "expert_choices")},
};
static const Summary LOGITS = {.field = "router_logit_rms",
                               .digits = 9,
                               .value = root_of_mean_squares,
                               .column = ROUTER_SQUARES_COLUMN,
                               .of_evaluation = true};
static const Summary BIAS[] = {
    [ROUTER_OF_FEED_FORWARD] = {.field = "router_bias_max",
                                .digits = 9,
                                .value = largest_magnitude,
                                .column = "router_bias"},
    [ROUTER_OF_MIXER] = {.field = "attention_router_bias_max",
                         .digits = 9,
                         .value = largest_magnitude,
                         .column = "attention_router_bias"},
};

void router_health_summarize(Statistics *stats, RouterPlace place, bool bias) {
    for (size_t i = 0; i < sizeof LOADS[place] / sizeof *LOADS[place]; i++)
        statistics_summarize(stats, &LOADS[place][i]);
    if (place == ROUTER_OF_FEED_FORWARD) statistics_summarize(stats, &LOGITS);
    if (bias) statistics_summarize(stats, &BIAS[place]);
}
