#include "worker/plan_placement.h"

#include <stdio.h>
#include <stdlib.h>

#include "checkpoint/checkpoint.h"
#include "worker/measured_placement.h"
#include "worker/session.h"

static void print_experts(const ExpertPlaces *places, const int32_t *expert_at, int64_t ranks) {
    Deal deal = deal_evenly(places->E, ranks);
    printf("  layer %-8lld", (long long)places->layer);
    for (int64_t rank = 0; rank < ranks; rank++) {
        printf("%srank %lld:", rank > 0 ? " | " : "", (long long)rank);
        for (int64_t p = deal_first(deal, rank); p < deal_first(deal, rank + 1); p++)
            printf(" %d", expert_at[p]);
    }
    putchar('\n');
}

static void print_placement(const Placement *placement, const UtilizationHistory *history,
                            int64_t ranks, const char *checkpoint) {
    PlacementGain gain = {0};
    char text[PLACEMENT_GAIN_BYTES];
    for (int i = 0; i < placement->count; i++) {
        const ExpertPlaces *places = placement->tables[i];
        int32_t *expert_at = malloc((size_t)places->E * sizeof *expert_at);
        CHECK_MEMORY(expert_at, "no memory for the places of %lld experts", (long long)places->E);
        measured_deal(history, places, ranks, expert_at, &gain);
        print_experts(places, expert_at, ranks);
        free(expert_at);
    }
    printf("  %s\n", placement_gain_text(&gain, checkpoint, text));
}

bool plan_print_placement(const TrainConfig *config, int ranks, const char *checkpoint,
                          Error *err) {
    Model model;
    UtilizationHistory history = {0};
    if (config->placement != PLACEMENT_MEASURED || config->expert_parallel == 1) return true;
    model_measure(&model, &config->model, session_split(config, ranks, 0, true), NULL);
    bool ok = true;
    if (model.placement.count > 0 && !checkpoint[0]) {
        printf("placement    experts are placed in their order until the run goes on from a "
               "checkpoint, by whose loads they are placed then\n");
    } else if (model.placement.count > 0) {
        ok = checkpoint_read_utilization(checkpoint, &history, err);
        printf("placement    of experts, when the run goes on from %s\n", checkpoint);
        if (ok) print_placement(&model.placement, &history, config->expert_parallel, checkpoint);
    }
    utilization_free(&history);
    model_free(&model);
    return ok;
}
