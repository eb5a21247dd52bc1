// Who works with whom. Ranks are laid out with the experts' index fastest:
//
//   rank                     0    1    2    3        parallel.expert = 2, 4 ranks
//   places of 8 experts     0-3  4-7  0-3  4-7      (model/placement.h)
//   expert_parallel   [0   1]  [2   3]   together they hold every expert once: all-to-all
//   expert_replicas          0 and 2,  1 and 3       hold the same experts: gradient reduction
//   world                   [0    1    2    3]       dense parameters are replicated on all
//
// Shards are dealt to ranks in order, so an expert_parallel group owns neighbouring shards.
#ifndef MOETRAIN_COMM_PROCESS_GROUPS_H
#define MOETRAIN_COMM_PROCESS_GROUPS_H

#include "kernels/device.h"

typedef struct Group Group; // hides the MPI and NCCL communicators
// Not collective.
int group_rank(const Group *group);
int group_size(const Group *group);

// A collective on its way. Between begin and wait the tensors belong to it; the device goes on with
// what needs neither. At most four host exchanges of a group at once, begun in the same order on
// all ranks.
typedef struct Pending {
    Group *group; // NULL: nothing is on its way
    Place place;
    int slot;
    int64_t flight; // of the flight recorder
} Pending;

typedef struct ProcessGroups {
    Group *world;
    Group *expert_parallel;
    Group *expert_replicas;
} ProcessGroups;

// Splits the world; ep_size must divide the number of ranks (checked by the configuration rules;
// fatal here). With a device whose tensors do not lie on the host, the groups can also exchange
// those: each of more than one rank gets a communicator among the ranks' GPUs. dev NULL: host
// tensors only. The device must stay open until the groups are closed. Collective over all ranks.
ProcessGroups process_groups_open(int ep_size, Device *dev);
// Waits for what is under way among the GPUs. Collective over all ranks. Legal on a zeroed struct.
void process_groups_close(ProcessGroups *groups);

#endif
