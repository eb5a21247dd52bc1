#include "comm/shard_run.h"

#include "kernels/check.h"
#include "kernels/integers.h"

// As many nodes as groups, the larger ones first: of the smallest level that has a node for each,
// pairs at the front stay together.
static Deal deal_nodes(int64_t shards, int64_t groups) {
    if (shards % groups == 0) return deal_evenly(shards, groups);
    int64_t nodes = next_power_of_two(groups);
    CHECK(shards % nodes == 0, "%lld shards for %lld groups of ranks", (long long)shards,
          (long long)groups);
    return (Deal){nodes - groups, shards / nodes * 2, shards / nodes};
}

Deal shard_group_deal(ShardDeal deal, int64_t rank, int64_t *first) {
    Deal groups = deal_nodes(deal.shards, deal.ranks / deal.group_size);
    int64_t group = rank / deal.group_size;
    *first = deal_first(groups, group);
    return deal_evenly(deal_count(groups, group), deal.group_size);
}

ShardRun shard_run(ShardDeal deal, int64_t rank) {
    int64_t first;
    Deal group = shard_group_deal(deal, rank, &first);
    int64_t place = rank % deal.group_size;
    return (ShardRun){first + deal_first(group, place), deal_count(group, place)};
}

int64_t shard_runs_most(ShardDeal deal) {
    return shard_run(deal, 0).count;
}

int64_t shard_runs_least(int64_t ranks, int64_t group_size) {
    return next_power_of_two(ranks / group_size) * next_power_of_two(group_size);
}

bool shard_runs_exist(ShardDeal deal) {
    return deal.shards % deal.ranks == 0 ||
           (is_power_of_two(deal.shards) &&
            deal.shards >= shard_runs_least(deal.ranks, deal.group_size));
}

ShardDeal shard_node_each(int64_t ranks) {
    return (ShardDeal){ranks, ranks, 1};
}

int shard_nodes(ShardDeal deal, int64_t rank, ShardNode nodes[SHARD_NODES_MAX]) {
    ShardRun run = shard_run(deal, rank);
    int64_t all = next_power_of_two(deal.shards);
    int64_t doubled = all - deal.shards; // the first shards, of two leaves each
    int64_t end = run.first + run.count;
    int count = 0;
    for (int64_t first = run.first; first < end;) {
        bool two = first < doubled;
        int64_t leaf = first + smaller(first, doubled);
        int64_t room = (two ? smaller(end, doubled) : end) - first; // shards of as many leaves
        ShardNode node = {first, all, leaf, two ? 2 * all : all};
        int64_t aligned = leaf > 0 ? largest_power_of_two_divisor(leaf) : all;
        while (node.count > room || node.leaves > aligned) {
            node.count /= 2;
            node.leaves /= 2;
        }
        CHECK(count < SHARD_NODES_MAX, "%lld shards of a rank", (long long)run.count);
        nodes[count++] = node;
        first += node.count;
    }
    return count;
}

int shard_nodes_most(ShardDeal deal) {
    ShardNode nodes[SHARD_NODES_MAX];
    int most = 1;
    for (int64_t rank = 0; rank < deal.ranks; rank++)
        most = (int)larger(most, shard_nodes(deal, rank, nodes));
    return most;
}
