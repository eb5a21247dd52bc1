// Private to comm/: who gives what to whom in the all-reduce whose bits do not depend on the number
// of ranks.
//
// Recursive halving with neighbour distance 1, 2, 4, …, then doubling back. After distance d every
// element of a kept range is the sum over an aligned block of 2d ranks, added as (lower half) +
// (upper half): exactly the binary tree that one rank would have summed over its shards. Addition
// of two numbers commutes, so both partners get the same bits. (Reduce-scatter and all-gather of
// Rabenseifner, 2004.)
#ifndef MOETRAIN_COMM_REDUCTION_TREE_H
#define MOETRAIN_COMM_REDUCTION_TREE_H

#include <stdint.h>

// One distance as one rank sees it. Halving: send the given range, receive the partner's share of
// the kept one and add it. Doubling, in reverse order: send the kept range, which is finished,
// receive the given one.
typedef struct TreeStep {
    int partner;
    int64_t kept, kept_count; // elements
    int64_t given, given_count;
} TreeStep;

enum { MAX_TREE_STEPS = 31 };

// Fills the steps of this rank and returns how many. `size` is a power of two. Not collective.
int tree_steps(TreeStep steps[MAX_TREE_STEPS], int rank, int size, int64_t elements);
// The elements that this rank sends in all of them, there and back.
int64_t tree_sent_elements(const TreeStep *steps, int count);

// What a ring or halving all-reduce sends from one rank at best; the libraries do not tell what
// they really do. Not collective.
int64_t all_reduce_estimate(int ranks, int64_t bytes);

#endif
