#include "model/rank_shape.h"

#include <stdlib.h>

#include "model/configured_layers.h"

ModelSplit model_split_alone(int64_t context) {
    return (ModelSplit){.ranks = 1,
                        .expert_parallel = 1,
                        .shards = 1,
                        .sequences = 1,
                        .context = context,
                        .micro_batches = 1};
}

ShardDeal model_shard_deal(const ModelConfig *config, int64_t shards, int64_t ranks,
                           int64_t expert_parallel) {
    bool replicates = model_experts_divisor(config) > 0;
    return (ShardDeal){shards, ranks, replicates ? expert_parallel : ranks};
}

// The fixed groups of shards over which an expert's gradient is summed in each micro-batch: those
// of them that are of this rank's expert_parallel group, which is dealt them as shards are.
static int64_t expert_parts(const ModelConfig *config, ModelSplit split) {
    int64_t replicas = split.ranks / split.expert_parallel;
    int64_t parts = config->moe.max_expert_replicas / split.micro_batches;
    if (split.shard_rows) parts = split.shards;
    if (model_experts_divisor(config) == 0 || !(split.fixed_tree || split.shard_rows)) return 1;
    ShardDeal deal = {parts, replicas, 1};
    CHECK(shard_runs_exist(deal),
          "%lld expert replicas x %lld micro-batches cannot share max_expert_replicas %lld",
          (long long)replicas, (long long)split.micro_batches,
          (long long)config->moe.max_expert_replicas);
    return shard_run(deal, split.rank / split.expert_parallel).count;
}

// Dense gradients are summed over one node unless they are continued over ranks.
static void find_nodes(RankShape *shape, bool fixed_tree) {
    ShardNode nodes[SHARD_NODES_MAX];
    shape->nodes[0] = (ShardRun){0, shape->dense_parts};
    shape->node_count = shape->most_nodes = 1;
    if (!fixed_tree) return;
    shape->most_nodes = shard_nodes_most(shape->deal);
    shape->node_count = shard_nodes(shape->deal, (int)shape->rank, nodes);
    for (int i = 0; i < shape->node_count; i++)
        shape->nodes[i] = (ShardRun){nodes[i].first - shape->first_shard, nodes[i].count};
}

RankShape rank_shape(const ModelConfig *config, ModelSplit split) {
    int64_t ep = split.expert_parallel;
    ShardDeal deal = model_shard_deal(config, split.shards, split.ranks, ep);
    CHECK(split.ranks % ep == 0 && shard_runs_exist(deal) && split.sequences % split.shards == 0,
          "%lld sequences, %lld shards, %lld ranks, expert_parallel %lld do not divide",
          (long long)split.sequences, (long long)split.shards, (long long)split.ranks,
          (long long)ep);
    ShardRun run = shard_run(deal, split.rank);
    int64_t B = split.sequences / split.shards * run.count;
    RankShape shape = {
        .B = B,
        .T = split.context,
        .N = B * split.context,
        .micro_batches = split.micro_batches,
        .shards = run.count,
        .first_shard = run.first,
        .all_shards = split.shards,
        .most_shards = shard_runs_most(deal),
        .deal = deal,
        .ranks = split.ranks,
        .rank = split.rank,
        .ep_size = ep,
        .ep_rank = split.rank % ep,
        .expert_replicas = split.ranks / ep,
        .sources = split.sources,
        .chunks = split.chunks > 0 ? split.chunks : 1,
        .dense_parts = split.fixed_tree || split.shard_rows ? run.count : 1,
        .expert_parts = expert_parts(config, split),
        .reduce_order = split.fixed_tree ? REDUCE_FIXED_TREE : REDUCE_ANY_ORDER,
    };
    shape.group_shards = shard_group_deal(deal, split.rank, &shape.group_first_shard);
    find_nodes(&shape, split.fixed_tree);
    shape.dense_offsets = calloc((size_t)shape.dense_parts + 1, sizeof *shape.dense_offsets);
    CHECK_MEMORY(shape.dense_offsets, "no memory for %lld shards", (long long)shape.shards);
    for (int64_t p = 0; p <= shape.dense_parts; p++)
        shape.dense_offsets[p] = shape.N / shape.dense_parts * p;
    return shape;
}
