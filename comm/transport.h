// Private to comm/: the two ways between ranks, MPI for host buffers and NCCL for device buffers,
// as one table each.
//
// No checks here: collectives.c has made them, and calls only where there is something to do. Same
// arguments and meaning as in collectives.h; collective over the group. Those that return a number
// return the bytes that this rank sent to other ranks.
#ifndef MOETRAIN_COMM_TRANSPORT_H
#define MOETRAIN_COMM_TRANSPORT_H

#include "comm/collectives.h"
#include "comm/process_groups.h"
#include "comm/row_runs.h"

typedef struct Transport {
    int64_t (*tree_all_reduce)(Group *group, Tensor x, TreeShare share, Pending *pending);
    int64_t (*all_reduce)(Group *group, Tensor x, Pending *pending);
    int64_t (*reduce_scatter)(Group *group, Tensor out, Tensor in);
    int64_t (*all_gather)(Group *group, Tensor out, Tensor in);
    int64_t (*broadcast)(Group *group, Tensor x, int root);
    int64_t (*all_to_all)(Group *group, Tensor out, Tensor in);
    int64_t (*all_to_all_rows)(Group *group, Tensor out, RowRuns receive, Tensor in, RowRuns send,
                               Pending *pending);
    void (*wait)(Pending *pending);

    // Only the device's. What a group needs to use it, made and given back, collective over the
    // group; collectives_check; and how long its ops have waited for collectives of a kind that
    // have ended, from the first call on: seconds.
    void (*attach)(Group *group, Device *dev);
    void (*detach)(Group *group);
    void (*check)(void);
    double (*waited_seconds)(const char *kind);
} Transport;

// The transport of device buffers; NULL in a build without one. Not collective.
const Transport *device_transport(void);

// Where element `index` of x lies. Not collective.
static inline char *element(Tensor x, int64_t index) {
    return (char *)x.data + (size_t)index * dtype_bytes(x.dtype);
}

#endif
