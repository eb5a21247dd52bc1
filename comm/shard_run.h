// Which of the shards of a micro-batch are a rank's: a run of neighbours, and runs follow each
// other in the order of ranks, as even as can be. Sums over all shards are made as one fixed binary
// tree over them, however they are dealt; so a run is also a list of nodes of that tree, the
// largest that lie within it, of which the rank knows the sums (reduction_tree.h goes on from
// there):
//
//   8 shards          0   1   2   3   4   5   6   7
//   2 ranks         [ 0             ][ 1             ]    one node each
//   3 ranks         [ 0         ][ 1        ][ 2     ]    {0 1} {2} | {3} {4 5} | {6 7}
//   5 ranks         [ 0     ][ 1     ][ 2     ][ 3 ][ 4 ] one node each
//
// Where experts are replicated, a group of ranks that hold all experts gets one node as if it were
// a rank, the larger ones first, since gradients of experts are summed over whole groups; it deals
// the shards below it to its own ranks evenly. Three groups get 4, 2 and 2 of 8 shards: nodes are
// powers of two, and no other three make them all. For 3, 3 and 2 a group would have several nodes,
// and a rank a sum of all its experts' gradients over each, from kernels that know an expert's rows
// as one run of parts; one group of all ranks has 3, 3 and 2 (`moetrain plan` says which degree is
// most even). Nothing here is collective.
//
// The tree over a power of two of shards halves them at every node. Over S others it is that over
// the next power of two, P, in which each of the first P - S shards stands for two leaves.
#ifndef MOETRAIN_COMM_SHARD_RUN_H
#define MOETRAIN_COMM_SHARD_RUN_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/deal.h"

// Shards, and the ranks that they are dealt to, in groups that hold all experts: of one rank at
// least, and of all ranks where nothing is replicated by groups.
typedef struct ShardDeal {
    int64_t shards, ranks, group_size;
} ShardDeal;

typedef struct ShardRun {
    int64_t first, count;
} ShardRun;

// Fatal unless shard_runs_exist.
ShardRun shard_run(ShardDeal deal, int64_t rank);
// How rank `rank`'s group deals its own shards to its ranks, and the first of these.
Deal shard_group_deal(ShardDeal deal, int64_t rank, int64_t *first);
bool shard_runs_exist(ShardDeal deal);
// The most that a rank has.
int64_t shard_runs_most(ShardDeal deal);
// The fewest shards, a power of two, that so many ranks in such groups can share.
int64_t shard_runs_least(int64_t ranks, int64_t group_size);
// A deal in which each of so many ranks has one node.
ShardDeal shard_node_each(int64_t ranks);

// A power of two of shards, and the leaves that they are in the tree.
typedef struct ShardNode {
    int64_t first, count;
    int64_t leaf, leaves;
} ShardNode;

enum { SHARD_NODES_MAX = 64 }; // of fewer than 2^31 shards
// The nodes of a rank in order; returns how many.
int shard_nodes(ShardDeal deal, int64_t rank, ShardNode nodes[SHARD_NODES_MAX]);
// The most that a rank has.
int shard_nodes_most(ShardDeal deal);

#endif
