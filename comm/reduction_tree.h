// Private to comm/: who gives what to whom in the all-reduce whose bits do not depend on the number
// of ranks: it continues the binary tree that one rank would have summed over its shards, since
// each rank's share is nodes of that tree (shard_run.h). Addition of two numbers commutes, so
// whoever adds (lower half) + (upper half) gets the same bits. Nothing here is collective.
#ifndef MOETRAIN_COMM_REDUCTION_TREE_H
#define MOETRAIN_COMM_REDUCTION_TREE_H

#include <stdbool.h>
#include <stdint.h>

#include "comm/shard_run.h"

// ---- a power of two of ranks, a node each -------------------------------------------------------
// Recursive halving with neighbour distance 1, 2, 4, …, then doubling back. After distance d every
// element of a kept range is the sum over an aligned block of 2d ranks. (Reduce-scatter and
// all-gather of Rabenseifner, 2004.)

// One distance as one rank sees it. Halving: send the given range, receive the partner's share of
// the kept one and add it. Doubling, in reverse order: send the kept range, which is finished,
// receive the given one.
typedef struct TreeStep {
    int partner;
    int64_t kept, kept_count; // elements
    int64_t given, given_count;
} TreeStep;

enum { MAX_TREE_STEPS = 31 };

// Fills the steps of this rank and returns how many. `size` is a power of two.
int tree_steps(TreeStep steps[MAX_TREE_STEPS], int rank, int size, int64_t elements);

// ---- any number of ranks ------------------------------------------------------------------------
// The elements are cut into a slice for each rank (deal_evenly). Every rank gives each other one
// that one's slice of each of its nodes, adds up all nodes of its own slice as the tree, and gives
// what is finished to all. The same bytes as above where each rank has one node.

// Node `from` is added to what is node `into` by now.
typedef struct TreeMerge {
    int into, from;
} TreeMerge;

// The nodes of all ranks in order.
typedef struct TreeNodes {
    int count;
    int *first;        // (ranks + 1): those of rank r are first[r] .. first[r + 1]
    TreeMerge *merges; // (count - 1) in their order; the sum of all is node 0's in the end
} TreeNodes;

TreeNodes tree_nodes(ShardDeal deal);
void tree_nodes_free(TreeNodes *tree);

// ---- both ---------------------------------------------------------------------------------------

// Whether it is done by halving.
bool tree_halves(ShardDeal deal);
// Elements that a rank sends in all, there and back; and the room that each needs for what it
// receives.
int64_t tree_sent_elements(ShardDeal deal, int64_t rank, int64_t elements);
int64_t tree_scratch_elements(ShardDeal deal, int64_t elements);

// What a ring or halving all-reduce sends from one rank at best; the libraries do not tell what
// they really do.
int64_t all_reduce_estimate(int ranks, int64_t bytes);

#endif
