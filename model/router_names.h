// A block may have routers in both halves. What their parameters and statistics are called.
#ifndef MOETRAIN_MODEL_ROUTER_NAMES_H
#define MOETRAIN_MODEL_ROUTER_NAMES_H

#include <stdint.h>

typedef struct Statistics Statistics; // statistics.h
typedef struct StatisticsColumn StatisticsColumn;

typedef enum RouterPlace {
    ROUTER_OF_FEED_FORWARD,
    ROUTER_OF_MIXER,
    ROUTER_OF_VALUES, // head_gate.h: of values and outputs
    ROUTER_OF_OUTPUTS,
    ROUTER_OF_SLOTS, // soft_moe.h: nothing is chosen
    ROUTER_OF_KEYS,  // peer.h
    ROUTER_PLACES
} RouterPlace;

typedef struct RouterNames {
    const char *params; // "moe" of layers.3.moe.router; of heads the name
    // columns of the statistics (router.h); NULL: not there
    const char *z, *entropy, *weight_mass, *bias, *dropped;
    const char *routed;  // always there: loads of the experts
    const char *of;      // behind "layer 3", for people
    const char *squares; // router_health.h
} RouterNames;
extern const RouterNames ROUTER_NAMES[];

// The counts of dropped choices beside a column of routed ones; NULL: none are dropped.
const int64_t *router_dropped(const Statistics *stats, const StatisticsColumn *routed);

#endif
