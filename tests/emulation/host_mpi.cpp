#include "host_mpi.h"

// Only the C interface of either implementation.
#define OMPI_SKIP_MPICXX  1
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>

#include "emulation.h"

static int open_communicators = 0;

void emulation::communicators_open(int change) {
    open_communicators += change;
}

void emulation::finish_device_work() {
    if (open_communicators == 0) return;
    cudaError_t code = cudaDeviceSynchronize();
    if (code != cudaSuccess)
        die("the device has failed before a host collective: %s", cudaGetErrorString(code));
}

// The blocking calls of comm/, before those of the library in link order; PMPI_ is the library's
// own.
extern "C" {

int MPI_Allreduce(const void *in, void *out, int count, MPI_Datatype type, MPI_Op op,
                  MPI_Comm comm) {
    emulation::finish_device_work();
    return PMPI_Allreduce(in, out, count, type, op, comm);
}

int MPI_Bcast(void *data, int count, MPI_Datatype type, int root, MPI_Comm comm) {
    emulation::finish_device_work();
    return PMPI_Bcast(data, count, type, root, comm);
}

int MPI_Barrier(MPI_Comm comm) {
    emulation::finish_device_work();
    return PMPI_Barrier(comm);
}

int MPI_Allgather(const void *in, int in_count, MPI_Datatype in_type, void *out, int out_count,
                  MPI_Datatype out_type, MPI_Comm comm) {
    emulation::finish_device_work();
    return PMPI_Allgather(in, in_count, in_type, out, out_count, out_type, comm);
}

int MPI_Alltoall(const void *in, int in_count, MPI_Datatype in_type, void *out, int out_count,
                 MPI_Datatype out_type, MPI_Comm comm) {
    emulation::finish_device_work();
    return PMPI_Alltoall(in, in_count, in_type, out, out_count, out_type, comm);
}

int MPI_Reduce_scatter_block(const void *in, void *out, int count, MPI_Datatype type, MPI_Op op,
                             MPI_Comm comm) {
    emulation::finish_device_work();
    return PMPI_Reduce_scatter_block(in, out, count, type, op, comm);
}

int MPI_Sendrecv(const void *send, int send_count, MPI_Datatype send_type, int to, int send_tag,
                 void *receive, int receive_count, MPI_Datatype receive_type, int from,
                 int receive_tag, MPI_Comm comm, MPI_Status *status) {
    emulation::finish_device_work();
    return PMPI_Sendrecv(send, send_count, send_type, to, send_tag, receive, receive_count,
                         receive_type, from, receive_tag, comm, status);
}

int MPI_Waitall(int count, MPI_Request requests[], MPI_Status statuses[]) {
    emulation::finish_device_work();
    return PMPI_Waitall(count, requests, statuses);
}

int MPI_Comm_split(MPI_Comm comm, int color, int key, MPI_Comm *out) {
    emulation::finish_device_work();
    return PMPI_Comm_split(comm, color, key, out);
}

int MPI_Comm_free(MPI_Comm *comm) {
    emulation::finish_device_work();
    return PMPI_Comm_free(comm);
}

} // extern "C"
