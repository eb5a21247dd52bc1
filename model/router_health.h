// How evenly the experts of a layer are used, of the counts of its router: what the figures mean,
// here alone.
//
// Experts are those that compute: choices of zero-computation ones (zero_experts.h) are told beside
// them, as their share, and are in no load and no mean here.
//
// With load_i the choices (in Soft MoE, where nothing is chosen, the combine weights, which its
// authors look at, arXiv:2308.00951) that fell on expert i of E, before dropping, in some set of
// tokens, and mean = Σ load_i / E:
//   max_vio            max_i load_i / mean - 1: 0 when even, E - 1 at most (MaxVio,
//                      arXiv:2408.15664 eq. 4). Over the tokens of a step it is that paper's
//                      MaxVio_batch, over a whole validation file its MaxVio_global. Metrics have
//                      the largest over the layers ("max_vio") and the mean over them
//                      ("max_vio_mean", the figure that the paper prints).
//   cv                 standard deviation of load_i over mean
//   dead               experts with load_i = 0; metrics have their sum over the layers
//                      ("dead_experts")
//   effective          exp(H) / E with H = -Σ p_i ln p_i, p_i = load_i / Σ load: the share of the
//                      experts that would do with even loads; 1 when even
// A layer without any choice has max_vio, cv and effective 0, and E dead experts. Counts are whole
// numbers, so every figure is the same on any number of ranks.
#ifndef MOETRAIN_MODEL_ROUTER_HEALTH_H
#define MOETRAIN_MODEL_ROUTER_HEALTH_H

#include "model/router_names.h"
#include "model/statistics.h"

//   router_logit_rms   the root of the mean square of the router's logits, without noise: in
//                      metrics of the mean over the layers of their mean squares
#define ROUTER_SQUARES_COLUMN "logit_squares" // three counts: count_squares of routing_ops.h

typedef struct RouterHealth {
    double max_vio, cv, effective;
    int64_t dead;
} RouterHealth;

// load_i is routed[i] + dropped[i]; dropped NULL: none.
RouterHealth router_health(const int64_t *routed, const int64_t *dropped, int64_t E);

// What is told of a layer's experts, for people: "max_vio 0.500, cv …".
void router_health_of_layer(RouterHealth health, int64_t E, char text[128]);
// The next column of loads, from column *i on, *i then being behind it; NULL behind the last.
// health NULL: not asked for.
const StatisticsColumn *router_health_next(const Statistics *stats, RouterPlace place, int *i,
                                           RouterHealth *health);

// The p-th percentile, 0 < p <= 100, by nearest rank: the least of the values that at least p % of
// them do not exceed. Sorts the values (n >= 1).
double percentile(double *values, int64_t n, double p);

// What is told of percentiles over layers, for people; "" without layers. Sorts the values.
void router_health_over_layers(double *max_vio, int64_t layers, char text[96]);

// Has max_vio, max_vio_mean and dead_experts told at each step and of each evaluation, of the
// counts "routed" and "dropped" of all layers; and, while a layer has the state "router_bias", its
// largest magnitude over all layers, "router_bias_max". "router_logit_rms" at both, too. Of mixers'
// routers the same but for the last, with "attention_", "value_" or "output_" before each name; of
// Soft MoE's slots, whose experts' load is what tokens take of them ("combine_mass"), "combine_";
// of PEER's experts "peer_".
void router_health_summarize(Statistics *stats, RouterPlace place, bool bias);

#endif
