// The checked front of everything that crosses ranks. Tensors on the host travel by MPI
// (collectives_mpi.c), tensors on the device by NCCL (collectives_nccl.c); all tensors of one call
// lie in the same place.
//
// Every function is collective over its group: all ranks of the group call it, in the same order,
// also those with zero rows. MPI and NCCL failures are fatal with exit code 7. Bytes that leave
// this rank are counted by kind, so that the trainer can compare them with `moetrain plan`.
//
// On the host a call returns when its result is there. On the device it takes its place among the
// ops (device.h): it begins when the ops called before it are done, and the ops called after it see
// its result; the host waits for nothing. Between the `begin` of a collective and its
// `collective_wait` the device also goes on with ops.
#ifndef MOETRAIN_COMM_COLLECTIVES_H
#define MOETRAIN_COMM_COLLECTIVES_H

#include "comm/process_groups.h"
#include "comm/row_runs.h"
#include "comm/shard_run.h"
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

// Makes the device's later ops, or the host, wait until it is done; *pending is zeroed. Legal on a
// zeroed one. Collective over the group that began it.
void collective_wait(Pending *pending);

typedef enum ReduceOrder {
    // ((0+1)+(2+3))+…, the tree over shards continued over ranks that have a node of it each: same
    // bits on any number of ranks (shard_run.h)
    REDUCE_FIXED_TREE,
    REDUCE_ANY_ORDER, // whatever the library finds fastest
} ReduceOrder;

// x becomes the sum over the group's ranks, on every rank. x f32, f64, i32 or i64, any shape.
// `scratch` holds at least all_reduce_scratch_elements (same dtype and place); ignored by
// REDUCE_ANY_ORDER and for groups of one, when its data may be NULL. Collective over the group.
void all_reduce_sum(Group *group, Tensor x, ReduceOrder order, Tensor scratch, TrafficKind kind);
// On the host all of it happens here.
Pending all_reduce_sum_begin(Group *group, Tensor x, ReduceOrder order, Tensor scratch,
                             TrafficKind kind);
// The bytes that one all_reduce_sum sends from rank 0: for `moetrain plan`; in any order also those
// of an all_reduce_max. Not collective.
int64_t all_reduce_sum_sent_bytes(int ranks, int64_t elements, DType dtype, ReduceOrder order);
// The room that it needs: half of x, rounded up, for a power of two of ranks, and up to all of it
// for others. Not collective.
int64_t all_reduce_scratch_elements(int ranks, int64_t elements);

// What a rank gives to a sum by the fixed tree of ranks that may have several nodes each: x is the
// sum over the first of its own (shard_nodes).
typedef struct TreeShare {
    ShardDeal deal;       // of the group's ranks
    const Tensor *others; // over its other nodes, each like x, and used up
    Tensor scratch;       // tree_sum_scratch_elements at least, as above
} TreeShare;
// x becomes the sum over all shards. Collective over the group.
Pending tree_sum_begin(Group *group, Tensor x, TreeShare share, TrafficKind kind);
// What the rank that sends most sends, and the room that any needs. Not collective.
int64_t tree_sum_sent_bytes(ShardDeal deal, int64_t elements, DType dtype);
int64_t tree_sum_scratch_elements(ShardDeal deal, int64_t elements);

// x becomes the largest over the group's ranks. f64, on the host. Collective over the group.
void all_reduce_max(Group *group, Tensor x, TrafficKind kind);
// out becomes this rank's block of the sum over ranks, in any order: rank r's is in[r * n …]. in
// (size * n), out (n), one dtype: f32, f64, i32 or i64. They do not overlap. Collective over the
// group.
void reduce_scatter_sum(Group *group, Tensor out, Tensor in, TrafficKind kind);

// Rank r's block of n elements goes to every rank: out[r * n …]. in (n), out (size * n), one dtype.
// Collective.
void all_gather(Group *group, Tensor out, Tensor in, TrafficKind kind);
// Root's bytes to every rank of the group: of the host, or a tensor anywhere. Counted as
// TRAFFIC_OTHER. Collective over the group.
void broadcast(Group *group, void *data, size_t bytes, int root);
void broadcast_tensor(Group *group, Tensor x, int root);
// Of the hosts; what the device has not done yet it goes on doing. Collective over the group.
void barrier(Group *group);

// Element block p of `in` goes to rank p; block p of `out` comes from rank p. Equal blocks. i32.
// in, out (size, n). Collective over the group.
void all_to_all(Group *group, Tensor out, Tensor in, TrafficKind kind);

// Rows travel between ranks: run p of `send` of `in` goes to rank p, run p of `receive` of `out`
// comes from rank p. Counts must match between the two sides; runs that are received do not
// overlap.
//   in (rows, D)   out (rows, D)   f32, bf16 or i32
// A padded exchange is asked for with the same array as `rows` of both sides and NULL as `first` of
// both: every rank sends the same number of rows to every rank. On the device that is one library
// call. Collective over the group.
void all_to_all_rows(Group *group, Tensor out, RowRuns receive, Tensor in, RowRuns send,
                     TrafficKind kind);
Pending all_to_all_rows_begin(Group *group, Tensor out, RowRuns receive, Tensor in, RowRuns send,
                              TrafficKind kind);

// Looks whether the library of device collectives has noticed a failure, such as a lost peer, and
// ends the job if so. For a thread that watches while the main thread waits. Does nothing without
// device collectives. Thread-safe. Not collective.
void collectives_check(void);

// Seconds that this rank has waited in collectives of a kind since its start: the host within its
// own, and the device's ops for those on the device that have ended, from the first call on. Those
// without traffic of a kind, as barriers, are of TRAFFIC_OTHER. For the thread that calls them. Not
// collective.
double collectives_waited_seconds(TrafficKind kind);

#endif
