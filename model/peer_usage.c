#include "model/peer_usage.h"

#include <math.h>
#include <string.h>

#include "model/router_health.h"

static const char CHOICES[] = "expert_choices"; // ROUTER_OF_KEYS of router_names.h

typedef struct Usage {
    double used, unevenness;
} Usage;

static Usage usage_of(const int64_t *choices, int64_t experts) {
    Usage usage = {0};
    double sum = 0, entropy = 0;
    for (int64_t e = 0; e < experts; e++) {
        sum += (double)choices[e];
        usage.used += choices[e] > 0;
    }
    for (int64_t e = 0; e < experts; e++)
        if (choices[e] > 0) entropy -= (double)choices[e] / sum * log((double)choices[e] / sum);
    usage.used /= (double)experts;
    usage.unevenness = sum > 0 ? log((double)experts) - entropy : 0;
    return usage;
}

static Usage mean_usage(const Statistics *stats) {
    Usage mean = {0};
    double layers = 0;
    for (int i = 0; i < stats->column_count; i++) {
        const StatisticsColumn *column = &stats->columns[i];
        if (strcmp(column->name, CHOICES) != 0) continue;
        Usage usage = usage_of(statistics_counts_of(stats, column), column->count);
        mean.used += usage.used;
        mean.unevenness += usage.unevenness;
        layers++;
    }
    return layers > 0 ? (Usage){mean.used / layers, mean.unevenness / layers} : mean;
}

static double used(const Statistics *stats, const char *column) {
    (void)column;
    return mean_usage(stats).used;
}
static double unevenness(const Statistics *stats, const char *column) {
    (void)column;
    return mean_usage(stats).unevenness;
}

static const Summary SUMMARIES[] = {
    {.field = "peer_used", .digits = 9, .value = used, .column = CHOICES, .of_evaluation = true},
    {.field = "peer_unevenness",
     .digits = 9,
     .value = unevenness,
     .column = CHOICES,
     .of_evaluation = true},
};

int peer_usage_report(Statistics *stats, int64_t layer, int64_t experts) {
    if (experts > COUNTED_EXPERTS) return -1;
    for (size_t i = 0; i < sizeof SUMMARIES / sizeof *SUMMARIES; i++)
        statistics_summarize(stats, &SUMMARIES[i]);
    router_health_summarize(stats, ROUTER_OF_KEYS, false);
    return statistics_counts(stats, CHOICES, layer, experts);
}

void peer_usage_count(const Statistics *stats, Work *work, int first, int64_t experts, Tensor ids) {
    int64_t tokens = work->training ? work->shape.N : work->step.counted_tokens;
    if (first < 0 || tokens == 0) return;
    count_ids(work->dev, statistics_count_range(stats, first, experts), tensor_rows(ids, 0, tokens),
              (Tensor){0});
}
