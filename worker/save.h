// Saving the state of a run, and describing it to checkpoint/.
#ifndef MOETRAIN_WORKER_SAVE_H
#define MOETRAIN_WORKER_SAVE_H

#include "worker/restore.h"
#include "worker/trainer.h"

// The run's state as a checkpoint over `host`'s tensors. The list of tensors is to be freed by the caller. Not collective.
Checkpoint save_describe(Trainer *trainer, const HostState *host);
// Saves a checkpoint of the present step unless there is one already. Collective over all ranks.
bool save_checkpoint(Trainer *trainer, Error *err);

#endif
