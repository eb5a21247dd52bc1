// Which of the hosts of `supervise --hosts a:4,b:4` can be reached, and how many ranks fit there.
#ifndef MOETRAIN_LAUNCHER_SUPERVISOR_LIVE_HOSTS_H
#define MOETRAIN_LAUNCHER_SUPERVISOR_LIVE_HOSTS_H

#include <stddef.h>

#include "kernels/check.h"

// Whether the list is one: host or host:slots (1 without), joined by commas. *slots: of all. False
// with exit 2.
bool hosts_check(const char *hosts, int *slots, Error *err);
// Asks mpirun to start nothing on each host, all at the same time; leaves those out that do not
// answer within 20 s, and warns of them. Returns the slots of the others.
int hosts_find_live(const char *hosts, char *live, size_t room);
// How many nodes Slurm counts to the job that this process runs in; one that was submitted with
// --no-kill loses those that fail and goes on. 0: in no job, or Slurm does not say.
int slurm_nodes_left(void);

#endif
