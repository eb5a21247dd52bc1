// What a training step reports, gathered so that it is the same on any number of ranks.
//
// Every shard keeps its own row of sums, in f64, over the micro-batches of a step; ops add to them on the device, and nobody
// waits. At the end the host fetches them and adds the rows as the fixed binary tree over shards, first on the rank, then
// across ranks. Counts are integers and need no order.
//
// The loss is the mean cross-entropy of the step; balance is E·Σ f·P without its coefficient α (1 when tokens spread
// evenly) and z is mean lse² without its coefficient c: the step minimises loss + Σ_layers (α·balance + c·z).
//
//   row of a shard: [ loss | balance, z, entropy of each MoE layer | gate-weight mass of each (layer, expert) ]
#ifndef MOETRAIN_MODEL_STATISTICS_H
#define MOETRAIN_MODEL_STATISTICS_H

#include "model/work.h"

typedef struct Statistics {
    int64_t layers, experts; // MoE layers, experts a layer
    Tensor sums;             // (S, columns) f64
    Tensor counts; // (2 · layers · experts) i64: routed, then dropped choices, together N·K a layer
    Tensor host_sums,
        host_counts;     // the host's mirrors; row 0 holds the total after statistics_reduce
    Tensor sums_scratch; // (columns) f64 on the host
} Statistics;

enum { STATISTICS_LOSS = 0 }; // column of `sums`

void statistics_layout(Statistics *stats, const Work *work, Arena *arena);
void statistics_clear(Statistics *stats, Device *dev);
// Where the router of a MoE layer adds up what it finds. `moe_layer` counts MoE layers only.
RouterTotals statistics_router_totals(const Statistics *stats, int64_t moe_layer);
// Sums over all shards, on every rank and on the host. Collective over world.
void statistics_reduce(Statistics *stats, Work *work);

// The totals of a step, after statistics_reduce.
double statistics_loss(const Statistics *stats);
double statistics_balance(const Statistics *stats, int64_t moe_layer);
double statistics_z(const Statistics *stats, int64_t moe_layer);
double statistics_entropy(const Statistics *stats, int64_t moe_layer);
const double *statistics_weight_mass(const Statistics *stats, int64_t moe_layer); // (experts)
const int64_t *statistics_routed(const Statistics *stats, int64_t moe_layer);     // (experts)
const int64_t *statistics_dropped(const Statistics *stats, int64_t moe_layer);    // (experts)

#endif
