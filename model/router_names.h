// A block may have two routers, one in each half. What their parameters and statistics are called.
#ifndef MOETRAIN_MODEL_ROUTER_NAMES_H
#define MOETRAIN_MODEL_ROUTER_NAMES_H

#include "model/statistics.h"

typedef enum RouterPlace { ROUTER_OF_FEED_FORWARD, ROUTER_OF_MIXER } RouterPlace;

typedef struct RouterNames {
    const char *params; // "moe" of layers.3.moe.router
    // columns of the statistics (router.h)
    const char *z, *entropy, *weight_mass, *routed, *dropped, *bias;
    const char *squares; // router_health.h; NULL: not counted
} RouterNames;
extern const RouterNames ROUTER_NAMES[];

// The counts of dropped choices beside a column of routed ones.
const int64_t *router_dropped(const Statistics *stats, const StatisticsColumn *routed);

#endif
