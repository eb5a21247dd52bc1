// Going back in a spike: to a checkpoint of some steps before it, and past the data that was seen
// before and during it, as PaLM did by hand about 20 times (arXiv:2204.02311, 5.1: about 100 steps
// back, 200 to 500 batches skipped): spikes come from data together with a state, and neither alone
// repeats them.
//
// Where it leads follows from the configuration and the step alone, and is a checkpoint of
// checkpoint.every: pruning spares what may be needed, and a run that was interrupted, or has
// another number of ranks, goes back to the same. That checkpoint is then saved anew, with the data
// skipped and the number of times. What came later is moved aside (going_back.h).
#ifndef MOETRAIN_WORKER_ROLL_BACK_H
#define MOETRAIN_WORKER_ROLL_BACK_H

#include "worker/trainer.h"

// A spike in the step that follows trainer->state: goes back, if there is a place to go back to.
// *done: whether the state is another one. False with exit 6 when it has gone back as often as it
// may, with that of loading or saving where these fail. Collective over all ranks.
bool roll_back(Trainer *trainer, bool *done, Error *err);

#endif
