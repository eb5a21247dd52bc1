// Which of the shards of a micro-batch are a rank's: a run of neighbours, and runs follow each
// other in the order of ranks. Where ranks divide the shards all have equally many. Otherwise
// shards, a power of two, are dealt as sub-trees of the fixed binary tree over them, whose root is
// split until there is one for every rank:
//
//   8 shards          0   1   2   3   4   5   6   7
//   3 ranks         [ 0             ][ 1     ][ 2     ]
//   5 ranks         [ 0     ][ 1     ][ 2     ][ 3 ][ 4 ]
//
// So a rank's share of any sum over shards is one node of that tree, and ranks continue it
// (reduction_tree.h). Where experts are replicated, a group of ranks that hold all experts gets a
// sub-tree as if it were a rank, and deals it to its own. Nothing here is collective.
#ifndef MOETRAIN_COMM_SHARD_RUN_H
#define MOETRAIN_COMM_SHARD_RUN_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/deal.h"

typedef struct ShardRun {
    int64_t first, count;
} ShardRun;

// Of `ranks` in groups of `group_size` that hold all experts. Fatal unless shard_runs_exist.
ShardRun shard_run(int64_t shards, int64_t ranks, int64_t group_size, int64_t rank);
// How rank `rank`'s group deals its own shards to its ranks, and the first of these.
Deal shard_group_deal(int64_t shards, int64_t ranks, int64_t group_size, int64_t rank,
                      int64_t *first);
bool shard_runs_exist(int64_t shards, int64_t ranks, int64_t group_size);
// The fewest shards, a power of two, that such ranks can share.
int64_t shard_runs_least(int64_t ranks, int64_t group_size);

#endif
