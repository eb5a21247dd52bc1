// Where a run goes on from: the checkpoint that `resume` asks for, found, checked and loaded.
#ifndef MOETRAIN_WORKER_RESUME_H
#define MOETRAIN_WORKER_RESUME_H

#include "worker/trainer.h"

// Loads the state of the checkpoint that config.resume names into the prepared trainer; leaves it at step 0 when there is none
// to be taken. Collective over all ranks.
bool resume_run(Trainer *trainer, Error *err);

#endif
