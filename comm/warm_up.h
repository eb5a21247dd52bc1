// The first collectives of a run.
#ifndef MOETRAIN_COMM_WARM_UP_H
#define MOETRAIN_COMM_WARM_UP_H

#include "comm/collectives.h"

// Sums and exchanges a few numbers on the device in the groups that training does it in, so that
// its library has taken the memory that it takes at a first use: what is free after it stays free.
// Nothing on a CPU. Collective over all ranks.
void collectives_warm_up(ProcessGroups groups, Device *dev, ReduceOrder order);

#endif
