// Private to comm/: the collectives on host buffers, without checks. Same arguments and meaning as
// in collectives.h; collective over the group. Everything but the rows is done when its function
// returns.
#ifndef MOETRAIN_COMM_COLLECTIVES_MPI_H
#define MOETRAIN_COMM_COLLECTIVES_MPI_H

#include "comm/transport.h"

extern const Transport mpi_transport;

// What only the host does. Each returns the bytes that this rank sent to other ranks.
int64_t mpi_all_reduce_max(Group *group, Tensor x);
int64_t mpi_broadcast_bytes(Group *group, void *data, size_t bytes, int root);
void mpi_barrier(Group *group);

#endif
