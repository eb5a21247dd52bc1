#include "comm/process_groups.h"

#include <stdlib.h>

#include "comm/comm.h"
#include "comm/group.h"
#include "comm/mpi_check.h"
#include "comm/transport.h"

int group_rank(const Group *group) {
    return group->rank;
}
int group_size(const Group *group) {
    return group->size;
}

// Ranks of one color become a group, ordered by world rank. Collective over all ranks.
static Group *group_open(int color, Device *dev) {
    Group *group = calloc(1, sizeof *group);
    CHECK_MEMORY(group, "no memory for a process group");
    MPI_CHECK(MPI_Comm_split(MPI_COMM_WORLD, color, comm_rank(), &group->comm));
    MPI_CHECK(MPI_Comm_set_errhandler(group->comm, MPI_ERRORS_RETURN));
    MPI_CHECK(MPI_Comm_rank(group->comm, &group->rank));
    MPI_CHECK(MPI_Comm_size(group->comm, &group->size));
    for (int i = 0; i < MAX_PENDING; i++) {
        size_t others = (size_t)group->size - 1;
        group->exchanges[i].requests = calloc(2 * others + 1, sizeof(MPI_Request));
        CHECK_MEMORY(group->exchanges[i].requests, "no memory for the requests of %d ranks",
                     group->size);
    }
    if (dev && dev->place == ON_DEVICE) device_transport()->attach(group, dev);
    return group;
}

static void group_close(Group *group) {
    if (!group) return;
    if (group->nccl) device_transport()->detach(group);
    for (int i = 0; i < MAX_PENDING; i++) {
        CHECK(!group->exchanges[i].pending,
              "a process group is closed before its exchange is done");
        free(group->exchanges[i].requests);
    }
    MPI_CHECK(MPI_Comm_free(&group->comm));
    free(group);
}

ProcessGroups process_groups_open(int ep_size, Device *dev) {
    CHECK(ep_size > 0 && comm_size() % ep_size == 0, "%d ranks do not divide into groups of %d",
          comm_size(), ep_size);
    Group *world = group_open(0, dev);
    Group *expert_parallel = group_open(comm_rank() / ep_size, dev);
    Group *expert_replicas = group_open(comm_rank() % ep_size, dev);
    return (ProcessGroups){world, expert_parallel, expert_replicas};
}

void process_groups_close(ProcessGroups *groups) {
    group_close(groups->world);
    group_close(groups->expert_parallel);
    group_close(groups->expert_replicas);
    *groups = (ProcessGroups){0};
}
