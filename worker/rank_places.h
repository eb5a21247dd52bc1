// Where the ranks of this run are: host and process of each.
#ifndef MOETRAIN_WORKER_RANK_PLACES_H
#define MOETRAIN_WORKER_RANK_PLACES_H

#include <stdint.h>

enum { PLACE_HOST_BYTES = 64 };
typedef struct RankPlace {
    char host[PLACE_HOST_BYTES];
    int64_t pid; // on that host
} RankPlace;

// One for each rank, in their order, on every rank; to be freed by the caller. Collective over all
// ranks.
RankPlace *rank_places(void);

#endif
