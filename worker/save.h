// Saving the state of a run, and describing it to checkpoint/. A save that fails, as on a full
// disk, is tried again: the checkpoints there are stay as they were, and what is lost is counted
// from the newest of them. Nothing is saved of which ranks hold different copies (replica_check.h):
// each save here then returns false with exit 6.
#ifndef MOETRAIN_WORKER_SAVE_H
#define MOETRAIN_WORKER_SAVE_H

#include "worker/restore.h"
#include "worker/trainer.h"

// The run's state as a checkpoint over `host`'s tensors. The list of tensors is to be freed by the
// caller. Not collective.
Checkpoint save_describe(Trainer *trainer, const HostState *host);

// Before training: makes RUN/checkpoints and tries it. False with exit 5. Collective over all
// ranks.
bool save_prepare(Trainer *trainer, Error *err);

// After each step: saves when `checkpoint.every` or the last step says so. When that fails,
// training goes on and later steps try again, some seconds apart, until the next save is due, but
// half a minute at least; then false with exit 5. The last step waits, as save_checkpoint does.
// Collective over all ranks.
bool save_when_due(Trainer *trainer, Error *err);

// Saves a checkpoint of the present step, unless there is one already, because somebody asks for it
// while training goes on. One that fails is tried again as above. Collective over all ranks.
bool save_now(Trainer *trainer, Error *err);

// Saves a checkpoint of the present step unless there is one already, because training ends here. A
// save that fails is tried again for some seconds. Collective over all ranks.
bool save_checkpoint(Trainer *trainer, Error *err);

// Waits for the save in flight, if there is one, and commits it. Collective over all ranks.
void save_settle(Trainer *trainer);

#endif
