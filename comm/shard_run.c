#include "comm/shard_run.h"

#include "kernels/check.h"
#include "kernels/integers.h"

// As many nodes as ranks, the larger ones first: of the smallest level that has a node for each,
// pairs at the front stay together.
static Deal deal_nodes(int64_t shards, int64_t ranks) {
    if (shards % ranks == 0) return deal_evenly(shards, ranks);
    int64_t nodes = next_power_of_two(ranks);
    CHECK(shards % nodes == 0, "%lld shards for %lld ranks", (long long)shards, (long long)ranks);
    return (Deal){nodes - ranks, shards / nodes * 2, shards / nodes};
}

Deal shard_group_deal(int64_t shards, int64_t ranks, int64_t group_size, int64_t rank,
                      int64_t *first) {
    Deal groups = deal_nodes(shards, ranks / group_size);
    int64_t group = rank / group_size;
    *first = deal_first(groups, group);
    return deal_nodes(deal_count(groups, group), group_size);
}

ShardRun shard_run(int64_t shards, int64_t ranks, int64_t group_size, int64_t rank) {
    int64_t first;
    Deal deal = shard_group_deal(shards, ranks, group_size, rank, &first);
    int64_t place = rank % group_size;
    return (ShardRun){first + deal_first(deal, place), deal_count(deal, place)};
}

int64_t shard_runs_least(int64_t ranks, int64_t group_size) {
    return next_power_of_two(ranks / group_size) * next_power_of_two(group_size);
}

bool shard_runs_exist(int64_t shards, int64_t ranks, int64_t group_size) {
    return shards % ranks == 0 ||
           (is_power_of_two(shards) && shards >= shard_runs_least(ranks, group_size));
}
