#include "worker/measured_placement.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/collectives.h"
#include "comm/comm.h"
#include "kernels/log.h"
#include "model/balanced_deal.h"

// Steps back that count, at least: routing changes while a model learns, and a few steps are noise.
enum { MEASURED_STEPS = 100 };

// ---- what the history tells ---------------------------------------------------------------------

// Where a series has the layer's E values; -1: nowhere.
static int64_t layer_in(const UtilizationSeries *series, const ExpertPlaces *places) {
    for (int64_t i = 0; series && i < series->layers; i++)
        if (series->of[i].number == places->layer && series->of[i].values == places->E) return i;
    return -1;
}

bool measured_rows(const UtilizationHistory *history, const ExpertPlaces *places, int64_t *rows,
                   int64_t *steps) {
    const UtilizationSeries *series =
        utilization_find(history, ROUTER_NAMES[places->router].routed);
    int64_t layer = layer_in(series, places), first = history->rows, sum = 0;
    memset(rows, 0, (size_t)places->E * sizeof *rows);
    if (layer < 0 || series->kind != STATISTICS_COUNTS) return false;
    *steps = history->open_steps;
    while (first > 0 && *steps < MEASURED_STEPS) *steps += history->steps[--first];
    const int64_t *open = (const int64_t *)series->open + layer * series->width;
    for (int64_t e = 0; e < places->E; e++) {
        if (history->open_steps > 0) rows[e] = open[e];
        for (int64_t row = first; row < history->rows; row++)
            rows[e] += utilization_counts(series, row, layer)[e];
        sum += rows[e];
    }
    return sum > 0;
}

// ---- placing ------------------------------------------------------------------------------------

static void add_layer(PlacementGain *gain, const int64_t *rows, const int32_t *expert_at, Deal deal,
                      int64_t ranks, int32_t *in_order) {
    int64_t E = deal_first(deal, ranks), sum = 0;
    for (int64_t e = 0; e < E; e++) in_order[e] = (int32_t)e, sum += rows[e];
    double mean = (double)sum / (double)ranks;
    double before = (double)busiest_rank_rows(in_order, rows, deal, ranks) / mean;
    double after = (double)busiest_rank_rows(expert_at, rows, deal, ranks) / mean;
    gain->layers++;
    gain->in_order += before;
    gain->placed += after;
    if (before > gain->most_in_order) gain->most_in_order = before;
    if (after > gain->most_placed) gain->most_placed = after;
}

void measured_deal(const UtilizationHistory *history, const ExpertPlaces *places, int64_t ranks,
                   int32_t *expert_at, PlacementGain *gain) {
    Deal deal = deal_evenly(places->E, ranks);
    int64_t *rows = calloc((size_t)places->E, sizeof *rows);
    int32_t *in_order = calloc((size_t)places->E, sizeof *in_order);
    CHECK_MEMORY(rows && in_order, "no memory for the loads of %lld experts", (long long)places->E);
    for (int64_t e = 0; e < places->E; e++) expert_at[e] = (int32_t)e;
    if (measured_rows(history, places, rows, &gain->steps)) {
        balanced_deal(expert_at, rows, deal, ranks);
        add_layer(gain, rows, expert_at, deal, ranks, in_order);
    }
    free(in_order);
    free(rows);
}

const char *placement_gain_text(const PlacementGain *gain, const char *path,
                                char text[PLACEMENT_GAIN_BYTES]) {
    double layers = (double)gain->layers;
    if (gain->layers == 0)
        snprintf(text, PLACEMENT_GAIN_BYTES,
                 "parallel.placement: measured: %s has no loads of these experts, which stay in "
                 "their order",
                 path);
    else
        snprintf(text, PLACEMENT_GAIN_BYTES,
                 "experts placed by their loads of the last %lld steps: the busiest rank of a "
                 "layer has %.3f times the mean of the rows, in order it had %.3f (in the worst "
                 "layer %.3f, in order %.3f)",
                 (long long)gain->steps, gain->placed / layers, gain->in_order / layers,
                 gain->most_placed, gain->most_in_order);
    return text;
}

bool measured_placement_take(Trainer *trainer, const char *path, Error *err) {
    Model *model = &trainer->model;
    Placement *placement = &model->placement;
    int64_t ranks = model->work.shape.ep_size;
    UtilizationHistory history = {0};
    PlacementGain gain = {0};
    char text[PLACEMENT_GAIN_BYTES];
    if (ranks == 1 || placement->count == 0) return true;
    bool ok = comm_rank() != 0 || checkpoint_read_utilization(path, &history, err);
    if (!comm_follow(ok, err)) return false;
    for (int i = 0; i < placement->count; i++) {
        ExpertPlaces *places = placement->tables[i];
        size_t bytes = (size_t)places->E * sizeof *places->expert_at;
        int32_t *expert_at = malloc(bytes);
        CHECK_MEMORY(expert_at, "no memory for the places of %lld experts", (long long)places->E);
        if (comm_rank() == 0) measured_deal(&history, places, ranks, expert_at, &gain);
        broadcast(comm_world(), expert_at, bytes, 0);
        placement_set(places, expert_at);
        free(expert_at);
    }
    placement_upload(placement, model->work.dev);
    utilization_free(&history);
    log_info("%s", placement_gain_text(&gain, path, text));
    return true;
}
