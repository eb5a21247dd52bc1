// Private to comm/: the collectives on host buffers, without checks. Each returns the bytes that this rank sent to
// other ranks. Same arguments and meaning as in collectives.h; collective over the group.
#ifndef MOETRAIN_COMM_COLLECTIVES_MPI_H
#define MOETRAIN_COMM_COLLECTIVES_MPI_H

#include "comm/collectives.h"

int64_t mpi_tree_all_reduce(Group *group, Tensor x, Tensor scratch);
int64_t mpi_all_reduce(Group *group, Tensor x);
int64_t mpi_all_reduce_max(Group *group, Tensor x);
int64_t mpi_all_gather(Group *group, Tensor out, Tensor in);
int64_t mpi_broadcast(Group *group, void *data, size_t bytes, int root);
void mpi_barrier(Group *group);
int64_t mpi_all_to_all(Group *group, Tensor out, Tensor in, int64_t n);
int64_t mpi_all_to_all_rows(Group *group, Tensor out, const int64_t *receive_rows, Tensor in,
                            const int64_t *send_rows);

#endif
