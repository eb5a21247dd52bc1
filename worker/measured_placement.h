// parallel.placement: measured: experts change places (model/placement.h) when a run goes on from a
// checkpoint, by the rows that each had in the steps before it, which the checkpoint's utilization
// history tells. So did FasterMoE (He et al. 2022) and DeepSeek's EPLB, with copies of busy experts
// beside; here each expert has one place in an expert-parallel group, and each rank as many experts
// as before. No result depends on it.
#ifndef MOETRAIN_WORKER_MEASURED_PLACEMENT_H
#define MOETRAIN_WORKER_MEASURED_PLACEMENT_H

#include "worker/trainer.h"

// Before the parameters of that checkpoint are loaded. Experts of which it has no loads, as when it
// is of a model with other experts, get their places in order. False as checkpoint_load. Collective
// over all ranks.
bool measured_placement_take(Trainer *trainer, const char *path, Error *err);

// How much more than the mean the busiest rank had, summed over layers and at most, with experts in
// order and as they are placed; {0} at first.
typedef struct PlacementGain {
    int64_t layers, steps;
    double in_order, placed, most_in_order, most_placed;
} PlacementGain;

// The expert at each place of the tables' E by a history, in order where it has no loads of them;
// adds to *gain. Not collective.
void measured_deal(const UtilizationHistory *history, const ExpertPlaces *places, int64_t ranks,
                   int32_t *expert_at, PlacementGain *gain);
// The gain of a checkpoint's history in words. Returns text.
enum { PLACEMENT_GAIN_BYTES = CONFIG_PATH_BYTES + 320 };
const char *placement_gain_text(const PlacementGain *gain, const char *path,
                                char text[PLACEMENT_GAIN_BYTES]);

// The rows that each of the experts had in the last steps of a history; false when it has none of
// them. steps: how many they were. Not collective.
bool measured_rows(const UtilizationHistory *history, const ExpertPlaces *places, int64_t *rows,
                   int64_t *steps);

#endif
