// Private to comm/: what a Group hides.
#ifndef MOETRAIN_COMM_GROUP_H
#define MOETRAIN_COMM_GROUP_H

#include <mpi.h>

#include "comm/process_groups.h"

enum { MAX_PENDING = 4 }; // host exchanges of one group on their way at once

// Messages posted and not waited for.
typedef struct HostExchange {
    MPI_Request *requests; // room for one to and one from every other rank
    int posted;
    bool pending;
} HostExchange;

struct Group {
    const char *name; // "expert_parallel"
    MPI_Comm comm;
    int rank, size;
    HostExchange exchanges[MAX_PENDING];
    // exchanges on host buffers so far; the same on every rank, so it tells their messages apart
    unsigned begun;
    // where collective_compare looks: one for all groups of all ranks, so that calls in two of them
    // meet
    MPI_Comm compared;
    int64_t number; // of the opening; the same on all ranks
    void *nccl;     // owned by collectives_nccl.c; NULL: host buffers only
};

// Ranks of one color become a group, ordered by world rank; `name` is a string constant, dev as in
// process_groups_open. Collective over all ranks.
Group *group_open(const char *name, int color, Device *dev);
void group_close(Group *group); // legal on NULL. Collective over the group.

#endif
