// What a training step reports, gathered so that it is the same on any number of ranks.
//
// Every shard keeps its own row of sums, in f64, over the micro-batches of a step; at the end the rows are added as
// the fixed binary tree over shards, first on the rank, then across ranks. Counts are integers and need no order.
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
    Tensor sums;             // (S, columns) f64; row 0 holds the total after statistics_reduce
    Tensor counts; // (2, layers, experts) i64: routed and dropped choices, together N·K a layer
    Tensor sums_scratch, counts_scratch;
} Statistics;

void statistics_layout(Statistics *stats, const Work *work, Arena *arena);
void statistics_clear(Statistics *stats);
// Sums over all shards, on every rank. Collective over world.
void statistics_reduce(Statistics *stats, Work *work);

// Where things stand in a shard's row. `moe_layer` counts MoE layers only.
double *statistics_loss(Statistics *stats, int64_t shard);
double *statistics_balance(Statistics *stats, int64_t shard, int64_t moe_layer);
double *statistics_z(Statistics *stats, int64_t shard, int64_t moe_layer);
double *statistics_entropy(Statistics *stats, int64_t shard, int64_t moe_layer);
double *statistics_weight_mass(Statistics *stats, int64_t shard, int64_t moe_layer); // (experts)
int64_t *statistics_routed(Statistics *stats, int64_t moe_layer);                    // (experts)
int64_t *statistics_dropped(Statistics *stats, int64_t moe_layer);                   // (experts)

#endif
