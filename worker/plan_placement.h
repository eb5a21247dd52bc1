// What `moetrain plan` says of parallel.placement: measured.
#ifndef MOETRAIN_WORKER_PLAN_PLACEMENT_H
#define MOETRAIN_WORKER_PLAN_PLACEMENT_H

#include "worker/train_config.h"

// Prints the experts of each rank of an expert-parallel group, layer by layer, as a run would place
// them that goes on from the checkpoint; empty: that there is none. Nothing with even placement, or
// where each rank has all experts. False with exit 4 or 5. Not collective.
bool plan_print_placement(const TrainConfig *config, int ranks, const char *checkpoint, Error *err);

#endif
