// Where the ranks of this run are: host and process of each, and whether the host can be reached.
#ifndef MOETRAIN_WORKER_RUN_RANK_PLACES_H
#define MOETRAIN_WORKER_RUN_RANK_PLACES_H

#include <stdbool.h>
#include <stdint.h>

enum { PLACE_HOST_BYTES = 64, PLACE_ADDRESS_BYTES = 48 };
typedef struct RankPlace {
    char host[PLACE_HOST_BYTES];
    int64_t pid; // on that host
    // The first address of the host that is no loopback, for people and for rank_places_reach;
    // empty where there is none.
    char address[PLACE_ADDRESS_BYTES];
} RankPlace;

// One for each rank, in their order, on every rank. The first call is collective over all ranks.
const RankPlace *rank_places(void);

// Which of the ranks are on hosts that do not answer: to a TCP connection, which needs nobody to
// accept it. Takes a second and a half when one does not. `cut_off` (ranks) is set; a rank without
// an address counts as reached. Not collective.
void rank_places_reach(const RankPlace *places, int ranks, int own, bool *cut_off);

#endif
