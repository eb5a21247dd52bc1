// Requests to stop: SIGUSR1, SIGTERM, SIGINT are noted and obeyed at the next step boundary.
#ifndef MOETRAIN_WORKER_SIGNALS_H
#define MOETRAIN_WORKER_SIGNALS_H

#include "comm/process_groups.h"

// Before any other thread of this program starts: they inherit what is blocked here. A second SIGINT or SIGTERM is not
// special: the step boundary comes soon enough.
void signals_install(void);
// The last signal received by this process, or 0. Main thread only.
int signals_received(void);
// The signal that any rank of the group has received, on all of them, or 0. Main thread only. Collective over the group.
int signals_agreed(Group *world);
// "SIGUSR1"
const char *signal_name(int number);

#endif
