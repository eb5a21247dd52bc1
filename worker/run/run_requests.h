// RUN/request.json: what somebody outside asks of a run that is alive: a checkpoint now, or other
// values of the keys that may change between two steps. A supervisor writes it; rank 0's watchdog
// thread takes it, within a second, and all ranks obey after the same step.
#ifndef MOETRAIN_WORKER_RUN_RUN_REQUESTS_H
#define MOETRAIN_WORKER_RUN_RUN_REQUESTS_H

#include "worker/trainer.h"

// The keys that may change: "log.every", …, NULL. They are numbers.
extern const char *const LIVE_KEYS[];

// The lock of the run directory is ours: what was asked of the start before goes. Does nothing on
// ranks other than 0.
void run_requests_begin(const char *run_dir);
// Looks for the file and takes it. About once a second, from the watchdog's thread.
void run_requests_beat(void);
// Whether there is something to obey. Rank 0's answer counts.
bool run_requests_pending(void);
// Obeys: changes trainer->config and the configuration that checkpoints and RUN/config.yaml hold,
// saves. A save that fails is tried again like any other; false where the state may not be saved
// (save_now). Collective over all ranks.
bool run_requests_obey(Trainer *trainer, Error *err);
void run_requests_end(void); // legal when nothing was begun

#endif
