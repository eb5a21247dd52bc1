#include "model/router_names.h"

#include <string.h>

#include "model/statistics.h"

const RouterNames ROUTER_NAMES[] = {
    [ROUTER_OF_FEED_FORWARD] = {.params = "moe",
                                .z = "z",
                                .entropy = "entropy",
                                .weight_mass = "weight_mass",
                                .routed = "routed",
                                .of = "",
                                .dropped = "dropped",
                                .bias = "router_bias",
                                .squares = "logit_squares"},
    [ROUTER_OF_MIXER] = {.params = "attention",
                         .z = "attention_z",
                         .entropy = "attention_entropy",
                         .weight_mass = "attention_weight_mass",
                         .routed = "attention_routed",
                         .of = ", attention",
                         .dropped = "attention_dropped",
                         .bias = "attention_router_bias"},
    [ROUTER_OF_VALUES] = {.params = "attention.value_router",
                          .routed = "value_routed",
                          .of = ", values"},
    [ROUTER_OF_OUTPUTS] = {.params = "attention.output_router",
                           .routed = "output_routed",
                           .of = ", outputs"},
    [ROUTER_OF_SLOTS] = {.routed = "combine_mass", .of = ", slots"},
    [ROUTER_OF_KEYS] = {.routed = "expert_choices", .of = ", PEER"},
};

const int64_t *router_dropped(const Statistics *stats, const StatisticsColumn *routed) {
    int place = 0;
    while (strcmp(routed->name, ROUTER_NAMES[place].routed) != 0) place++;
    const char *dropped = ROUTER_NAMES[place].dropped;
    return dropped ? statistics_count_values(stats, dropped, routed->layer) : NULL;
}
