// Everything before the first step: data, run directory, device, memory, the state to go on from.
#ifndef MOETRAIN_WORKER_PREPARE_H
#define MOETRAIN_WORKER_PREPARE_H

#include "worker/trainer.h"

// Fills a trainer that has its configuration. Collective over all ranks.
bool prepare_run(Trainer *trainer, Error *err);

#endif
