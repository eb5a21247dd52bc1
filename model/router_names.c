#include "model/router_names.h"

#include <string.h>

const RouterNames ROUTER_NAMES[] = {
    [ROUTER_OF_FEED_FORWARD] = {.params = "moe",
                                .z = "z",
                                .entropy = "entropy",
                                .weight_mass = "weight_mass",
                                .routed = "routed",
                                .dropped = "dropped",
                                .bias = "router_bias",
                                .squares = "logit_squares"},
    [ROUTER_OF_MIXER] = {.params = "attention",
                         .z = "attention_z",
                         .entropy = "attention_entropy",
                         .weight_mass = "attention_weight_mass",
                         .routed = "attention_routed",
                         .dropped = "attention_dropped",
                         .bias = "attention_router_bias"},
};

const int64_t *router_dropped(const Statistics *stats, const StatisticsColumn *routed) {
    bool of_mixer = strcmp(routed->name, ROUTER_NAMES[ROUTER_OF_MIXER].routed) == 0;
    RouterPlace place = of_mixer ? ROUTER_OF_MIXER : ROUTER_OF_FEED_FORWARD;
    return statistics_count_values(stats, ROUTER_NAMES[place].dropped, routed->layer);
}
