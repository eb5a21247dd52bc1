// Where a run goes on from: the checkpoint that `resume` asks for, found, checked and loaded.
#ifndef MOETRAIN_WORKER_RESUME_H
#define MOETRAIN_WORKER_RESUME_H

#include "worker/trainer.h"

// Loads the state of the checkpoint that config.resume names into the prepared trainer, unless its
// data or function keys are others; begins a branch where it is a path, which moves what the
// run.dir holds after it aside; leaves the trainer at step 0, with the weights of config.init if
// any, when there is no checkpoint to be taken. Nothing in run.dir has changed when it is false,
// except that an interrupted moving aside is finished. Collective over all ranks.
bool resume_run(Trainer *trainer, Error *err);

// Everything of one checkpoint of this run, into the trainer. False as checkpoint_load, the state
// then being partly overwritten. Collective over all ranks.
bool resume_load(Trainer *trainer, const char *path, Error *err);

#endif
