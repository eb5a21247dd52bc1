// The host's memory beside the model's arenas, for the plan: what is ours from the code that takes
// it, what libraries take as measured.
#ifndef MOETRAIN_WORKER_PLAN_HOST_H
#define MOETRAIN_WORKER_PLAN_HOST_H

#include "worker/plan.h"

// Fills thread_bytes, host_bytes and library_bytes. trained and evaluated (zeroed without a
// validation file) are measured; on `place` lie their arenas. Not collective.
void plan_host_memory(Plan *plan, const TrainConfig *config, const Model *trained,
                      const Model *evaluated, const PlanHost *host);

#endif
