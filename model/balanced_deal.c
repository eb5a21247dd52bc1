#include "model/balanced_deal.h"

#include <stdlib.h>

#include "kernels/check.h"
#include "kernels/integers.h"

enum { EXCHANGES_MAX = 100 }; // few are made: those of many experts find each rank nearly full

typedef struct Dealing {
    int64_t E, ranks;
    const int64_t *rows;  // (E)
    int64_t *rank_of;     // (E)
    int64_t *load, *room; // (ranks)
} Dealing;

typedef struct Busy {
    int64_t rows;
    int32_t expert;
} Busy;

static int busier_first(const void *a, const void *b) {
    const Busy *x = a, *y = b;
    if (x->rows != y->rows) return x->rows > y->rows ? -1 : 1;
    return x->expert < y->expert ? -1 : 1;
}

static int64_t busiest(const Dealing *d) {
    int64_t most = 0;
    for (int64_t rank = 1; rank < d->ranks; rank++)
        if (d->load[rank] > d->load[most]) most = rank;
    return most;
}

// Each to the rank with room that has least so far.
static void deal_longest_first(Dealing *d) {
    Busy *order = calloc((size_t)d->E, sizeof *order);
    CHECK_MEMORY(order, "no memory for %lld experts", (long long)d->E);
    for (int64_t e = 0; e < d->E; e++) order[e] = (Busy){d->rows[e], (int32_t)e};
    qsort(order, (size_t)d->E, sizeof *order, busier_first);
    for (int64_t i = 0; i < d->E; i++) {
        int64_t least = -1;
        for (int64_t rank = 0; rank < d->ranks; rank++)
            if (d->room[rank] > 0 && (least < 0 || d->load[rank] < d->load[least])) least = rank;
        d->rank_of[order[i].expert] = least;
        d->load[least] += order[i].rows;
        d->room[least]--;
    }
    free(order);
}

// The exchange of an expert of the busiest rank that leaves the fewest rows with the busier of the
// two ranks; false when none leaves fewer than there are.
static bool exchange(Dealing *d) {
    int64_t most = busiest(d), best = d->load[most], give = -1, take = -1;
    for (int64_t mine = 0; mine < d->E; mine++) {
        if (d->rank_of[mine] != most) continue;
        for (int64_t other = 0; other < d->E; other++) {
            int64_t rank = d->rank_of[other], moved = d->rows[mine] - d->rows[other];
            if (rank == most || moved <= 0) continue;
            int64_t left = larger(d->load[most] - moved, d->load[rank] + moved);
            if (left >= best) continue;
            best = left;
            give = mine;
            take = other;
        }
    }
    if (give < 0) return false;
    int64_t rank = d->rank_of[take], moved = d->rows[give] - d->rows[take];
    d->load[most] -= moved;
    d->load[rank] += moved;
    d->rank_of[give] = rank;
    d->rank_of[take] = most;
    return true;
}

int64_t busiest_rank_rows(const int32_t *expert_at, const int64_t *rows, Deal deal, int64_t ranks) {
    int64_t most = 0, place = 0;
    for (int64_t rank = 0; rank < ranks; rank++) {
        int64_t load = 0;
        for (int64_t i = 0; i < deal_count(deal, rank); i++) load += rows[expert_at[place++]];
        most = larger(most, load);
    }
    return most;
}

void balanced_deal(int32_t *expert_at, const int64_t *rows, Deal deal, int64_t ranks) {
    int64_t E = deal_first(deal, ranks), place = 0;
    int64_t *numbers = calloc((size_t)(E + 2 * ranks), sizeof *numbers);
    CHECK_MEMORY(numbers, "no memory for %lld experts", (long long)E);
    Dealing d = {E, ranks, rows, numbers, numbers + E, numbers + E + ranks};
    for (int64_t rank = 0; rank < ranks; rank++) d.room[rank] = deal_count(deal, rank);
    deal_longest_first(&d);
    for (int i = 0; i < EXCHANGES_MAX && exchange(&d); i++) continue;
    for (int64_t e = 0; e < E; e++) expert_at[e] = (int32_t)e;
    if (d.load[busiest(&d)] < busiest_rank_rows(expert_at, rows, deal, ranks))
        for (int64_t rank = 0; rank < ranks; rank++)
            for (int64_t e = 0; e < E; e++)
                if (d.rank_of[e] == rank) expert_at[place++] = (int32_t)e;
    free(numbers);
}
