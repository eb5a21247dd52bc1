// Work that may wait for a disk for ever, done by somebody who may not.
#ifndef MOETRAIN_WORKER_RUN_DEADLINE_H
#define MOETRAIN_WORKER_RUN_DEADLINE_H

#include <stdbool.h>

// Runs `work` in a thread and waits for it, `seconds` at most; false when it is not done by then,
// or no thread can be started. It goes on: `context` must stay, and the process should end soon.
bool deadline_run(void *(*work)(void *), void *context, int seconds);

#endif
