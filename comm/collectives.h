// The checked front of everything that crosses ranks. Host buffers travel by MPI (collectives_mpi.c).
//
// Every function is collective over its group: all ranks of the group call it, in the same order, also those
// with zero rows. MPI failures are fatal with exit code 7. Bytes that leave this rank are counted by kind, so
// that the trainer can compare them with `moetrain plan`.
#ifndef MOETRAIN_COMM_COLLECTIVES_H
#define MOETRAIN_COMM_COLLECTIVES_H

#include "comm/process_groups.h"
#include "kernels/tensor.h"

typedef enum TrafficKind {
    TRAFFIC_DISPATCH, // tokens to experts, and gradients back the same way
    TRAFFIC_COMBINE,  // expert outputs to tokens, and their gradients to the experts
    TRAFFIC_COUNTS,   // how many rows follow
    TRAFFIC_GRADIENTS,
    TRAFFIC_STATISTICS, // losses, norms, utilization
    TRAFFIC_OTHER,      // start-up, checkpoints, agreement
    TRAFFIC_KINDS,
} TrafficKind;
const char *traffic_name(TrafficKind kind);
// Bytes this rank has sent to other ranks since start.
int64_t traffic_sent_bytes(TrafficKind kind);

typedef enum ReduceOrder {
    REDUCE_FIXED_TREE, // ((0+1)+(2+3))+…, the tree over shards continued over ranks: same bits on any number of ranks
    REDUCE_ANY_ORDER, // whatever the MPI library finds fastest
} ReduceOrder;

// x becomes the sum over the group's ranks, on every rank. x f32, f64, i32 or i64, any shape. The fixed tree needs
// a power of two of ranks. `scratch` holds at least half of x (rounded up; same dtype); ignored by REDUCE_ANY_ORDER
// and for groups of one, when its data may be NULL. Collective over the group.
void all_reduce_sum(Group *group, Tensor x, ReduceOrder order, Tensor scratch, TrafficKind kind);
// The bytes that one all_reduce_sum by the fixed tree sends from one rank: for `moetrain plan`. Not collective.
int64_t all_reduce_sum_sent_bytes(int ranks, int64_t elements, DType dtype);
// x becomes the largest over the group's ranks. f64. Collective over the group.
void all_reduce_max(Group *group, Tensor x, TrafficKind kind);

// Rank r's block of n elements goes to every rank: out[r * n …]. in (n), out (size * n), one dtype. Collective.
void all_gather(Group *group, Tensor out, Tensor in, TrafficKind kind);
// Root's bytes to every rank of the group. Collective over the group.
void broadcast(Group *group, void *data, size_t bytes, int root);
void barrier(Group *group);

// Element block p of `in` goes to rank p; block p of `out` comes from rank p. Equal blocks. i32.
// in, out (size, n). Collective over the group.
void all_to_all(Group *group, Tensor out, Tensor in, TrafficKind kind);

// Rows travel between ranks: send_rows[p] consecutive rows of `in` go to rank p (in rank order), receive_rows[p] rows
// of `out` come from rank p. Counts are rows, in host memory, and must match between the two sides.
//   in (≥ Σ send, D)   out (≥ Σ receive, D)   f32
// Collective over the group.
void all_to_all_rows(Group *group, Tensor out, const int64_t *receive_rows, Tensor in,
                     const int64_t *send_rows, TrafficKind kind);

#endif
