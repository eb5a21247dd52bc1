#include "comm/process_groups.h"

#include <stdlib.h>

#include "comm/comm.h"
#include "comm/group.h"
#include "comm/mpi_check.h"

int group_rank(const Group *group) {
    return group->rank;
}
int group_size(const Group *group) {
    return group->size;
}

// Ranks of one color become a group, ordered by world rank. Collective over all ranks.
static Group *group_open(int color) {
    Group *group = calloc(1, sizeof *group);
    CHECK(group, "no memory for a process group");
    MPI_CHECK(MPI_Comm_split(MPI_COMM_WORLD, color, comm_rank(), &group->comm));
    MPI_CHECK(MPI_Comm_set_errhandler(group->comm, MPI_ERRORS_RETURN));
    MPI_CHECK(MPI_Comm_rank(group->comm, &group->rank));
    MPI_CHECK(MPI_Comm_size(group->comm, &group->size));
    return group;
}

static void group_close(Group *group) {
    if (!group) return;
    MPI_CHECK(MPI_Comm_free(&group->comm));
    free(group);
}

ProcessGroups process_groups_open(int ep_size) {
    CHECK(ep_size > 0 && comm_size() % ep_size == 0, "%d ranks do not divide into groups of %d",
          comm_size(), ep_size);
    return (ProcessGroups){
        .world = group_open(0),
        .expert_parallel = group_open(comm_rank() / ep_size),
        .expert_replicas = group_open(comm_rank() % ep_size),
    };
}

void process_groups_close(ProcessGroups *groups) {
    group_close(groups->world);
    group_close(groups->expert_parallel);
    group_close(groups->expert_replicas);
    *groups = (ProcessGroups){0};
}
