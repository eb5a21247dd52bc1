// How a row of pieces is dealt to ranks in order: the first ranks get `large` of them each, the
// others `small`.
#ifndef MOETRAIN_KERNELS_DEAL_H
#define MOETRAIN_KERNELS_DEAL_H

#include <stdbool.h>
#include <stdint.h>

typedef struct Deal {
    int64_t first_ranks; // that get `large`
    int64_t large, small;
} Deal;

// As evenly as can be: shares differ by one at most.
static inline Deal deal_evenly(int64_t pieces, int64_t ranks) {
    bool even = pieces % ranks == 0;
    return (Deal){even ? ranks : pieces % ranks, pieces / ranks + !even, pieces / ranks};
}

static inline int64_t deal_count(Deal deal, int64_t rank) {
    return rank < deal.first_ranks ? deal.large : deal.small;
}

// The first piece of a rank; of the number of ranks: that of pieces.
static inline int64_t deal_first(Deal deal, int64_t rank) {
    int64_t large = rank < deal.first_ranks ? rank : deal.first_ranks;
    return large * deal.large + (rank - large) * deal.small;
}

// Whether all have equally many.
static inline bool deal_is_even(Deal deal, int64_t ranks) {
    return deal.first_ranks == ranks;
}

#endif
