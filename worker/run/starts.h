// RUN/starts.jsonl: one row for each start of a run: when, from which step, on which hosts, as
// which job, with which program and configuration.
#ifndef MOETRAIN_WORKER_RUN_STARTS_H
#define MOETRAIN_WORKER_RUN_STARTS_H

#include "worker/trainer.h"

// Adds the row of this start and says on the log where the run is. False with exit 5 when the file
// cannot be opened; a row that cannot be written costs a warning. Collective over all ranks.
bool starts_write(const Trainer *trainer, Error *err);

#endif
