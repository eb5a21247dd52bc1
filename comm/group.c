#include "comm/group.h"

#include <stdlib.h>

#include "comm/mpi_check.h"
#include "comm/transport.h"

int group_rank(const Group *group) {
    return group->rank;
}
int group_size(const Group *group) {
    return group->size;
}

static int64_t opened;
static MPI_Comm all_ranks = MPI_COMM_NULL; // of the first group of all ranks, which is closed last

Group *group_open(const char *name, int color, Device *dev) {
    Group *group = calloc(1, sizeof *group);
    CHECK_MEMORY(group, "no memory for a process group");
    group->name = name;
    MPI_CHECK(MPI_Comm_split(MPI_COMM_WORLD, color, 0, &group->comm));
    MPI_CHECK(MPI_Comm_set_errhandler(group->comm, MPI_ERRORS_RETURN));
    MPI_CHECK(MPI_Comm_rank(group->comm, &group->rank));
    MPI_CHECK(MPI_Comm_size(group->comm, &group->size));
    int ranks;
    MPI_CHECK(MPI_Comm_size(MPI_COMM_WORLD, &ranks));
    if (group->size == ranks && all_ranks == MPI_COMM_NULL) all_ranks = group->comm;
    group->compared = group->size == ranks ? all_ranks : group->comm;
    group->number = opened++;
    for (int i = 0; i < MAX_PENDING; i++) {
        size_t others = (size_t)group->size - 1;
        group->exchanges[i].requests = calloc(2 * others + 1, sizeof(MPI_Request));
        CHECK_MEMORY(group->exchanges[i].requests, "no memory for the requests of %d ranks",
                     group->size);
    }
    if (dev && dev->place == ON_DEVICE) device_transport()->attach(group, dev);
    return group;
}

void group_close(Group *group) {
    if (!group) return;
    if (group->nccl) device_transport()->detach(group);
    for (int i = 0; i < MAX_PENDING; i++) {
        CHECK(!group->exchanges[i].pending,
              "a process group is closed before its exchange is done");
        free(group->exchanges[i].requests);
    }
    if (group->comm == all_ranks) all_ranks = MPI_COMM_NULL;
    MPI_CHECK(MPI_Comm_free(&group->comm));
    free(group);
}
