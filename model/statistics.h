// What a training step reports, gathered so that it is the same on any number of ranks.
//
// Every shard of the step has its own row of sums, in f64; ops add to them on the device, and
// nobody waits. At the end the host fetches them and adds the rows as the fixed binary tree over
// shards: those of a micro-batch on the rank, then across ranks, then the micro-batches. Counts are
// integers and need no order.
//
// The loss is the mean cross-entropy of the step; balance is E·Σ f·P without its coefficient α (1
// when tokens spread evenly) and z is mean lse² without its coefficient c: the step minimises loss
// + Σ_layers (α·balance + c·z).
//
//   row of a shard: [ loss | balance, z, entropy of each MoE layer | gate-weight mass of each
//     (layer, expert) ]
#ifndef MOETRAIN_MODEL_STATISTICS_H
#define MOETRAIN_MODEL_STATISTICS_H

#include "model/work.h"

typedef struct Statistics {
    int64_t layers, experts; // MoE layers, experts a layer
    Tensor sums; // (micro-batches · S, columns) f64, S this rank's shards of a micro-batch
    Tensor counts; // (2 · layers · experts) i64: routed, then dropped choices, together N·K a layer
    Tensor host_sums,
        host_counts;     // the host's mirrors; row 0 holds the total after statistics_reduce
    Tensor sums_scratch; // (micro-batches, columns) f64 on the host
} Statistics;

enum { STATISTICS_LOSS = 0 }; // column of `sums`

void statistics_layout(Statistics *stats, const Work *work, Arena *arena);
void statistics_clear(Statistics *stats, Device *dev);
// The rows of the present micro-batch's shards (S, columns).
Tensor statistics_rows(const Statistics *stats, const Work *work);
// Where the router of a MoE layer adds up what it finds. `moe_layer` counts MoE layers only.
RouterTotals statistics_router_totals(const Statistics *stats, const Work *work, int64_t moe_layer);
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
