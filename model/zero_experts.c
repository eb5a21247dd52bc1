#include "model/zero_experts.h"

#include <string.h>

#include "model/experts.h"

static bool adds(const Router *router, const Work *work) {
    return router->shape.zero > 0 && work->config->moe.zero_kind == ZERO_IDENTITY;
}

void zero_experts_forward(const Router *router, Work *work, Tensor out, Tensor x) {
    if (adds(router, work))
        identity_experts_forward(work->dev, out, x, router->ids, router->scaled,
                                 router->shape.experts);
}

void zero_experts_backward(const Router *router, Work *work, Tensor dx, Tensor dweights,
                           Tensor dout, Tensor x) {
    if (adds(router, work))
        identity_experts_backward(work->dev, dx, dweights, dout, x, router->ids, router->scaled,
                                  router->shape.experts);
}

// ---- statistics ---------------------------------------------------------------------------------

static int64_t sum_of(const Statistics *stats, const StatisticsColumn *column) {
    const int64_t *counts = statistics_counts_of(stats, column);
    int64_t sum = 0;
    for (int64_t e = 0; e < column->count; e++) sum += counts[e];
    return sum;
}

int64_t zero_choices(const Statistics *stats, int64_t layer) {
    const StatisticsColumn *column = statistics_find(stats, ZERO_COLUMN, layer);
    return column ? sum_of(stats, column) : 0;
}

// Of all layers, those that have none too: what share of the work was spared.
static double zero_share(const Statistics *stats, const char *zero) {
    int64_t choices = 0, of_zero = 0;
    for (int i = 0; i < stats->column_count; i++) {
        const StatisticsColumn *column = &stats->columns[i];
        bool is_zero = strcmp(column->name, zero) == 0;
        if (!is_zero && strcmp(column->name, "routed") != 0 && strcmp(column->name, "dropped") != 0)
            continue;
        choices += sum_of(stats, column);
        if (is_zero) of_zero += sum_of(stats, column);
    }
    return choices > 0 ? (double)of_zero / (double)choices : 0;
}

static const Summary SHARE = {.field = "zero_share",
                              .digits = 9,
                              .value = zero_share,
                              .column = ZERO_COLUMN,
                              .line = {" | zero ", .decimals = 1, .percent = true},
                              .of_evaluation = true};

void zero_experts_summarize(Statistics *stats) {
    statistics_summarize(stats, &SHARE);
}

double zero_experts_spared_flops(const ModelConfig *config, const Statistics *stats) {
    double flops = 0;
    for (int64_t layer = 0; layer < config->layers; layer++)
        flops +=
            (double)zero_choices(stats, layer) * experts_flops(config, moe_shape(config, layer));
    return flops;
}
