// Private to comm/: what a Group hides.
#ifndef MOETRAIN_COMM_GROUP_H
#define MOETRAIN_COMM_GROUP_H

#include <mpi.h>

#include "comm/process_groups.h"

struct Group {
    MPI_Comm comm;
    int rank, size;
};

#endif
