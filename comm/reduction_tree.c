#include "comm/reduction_tree.h"

#include <stdlib.h>

#include "comm/shard_run.h"
#include "kernels/check.h"
#include "kernels/integers.h"

int tree_steps(TreeStep steps[MAX_TREE_STEPS], int rank, int size, int64_t elements) {
    int64_t first = 0, count = elements;
    int level = 0;
    for (int distance = 1; distance < size; distance *= 2, level++) {
        int64_t lower = (count + 1) / 2, upper = count - lower;
        TreeStep step = {rank ^ distance, first, lower, first + lower, upper};
        if (rank & distance) step = (TreeStep){rank ^ distance, first + lower, upper, first, lower};
        steps[level] = step;
        first = step.kept;
        count = step.kept_count;
    }
    return level;
}

// Nodes whose sums are complete are merged with their siblings, level by level.
static void find_merges(TreeNodes *tree, ShardNode *nodes) {
    int64_t leaves = 0;
    int merged = 0;
    for (int i = 0; i < tree->count; i++) leaves += nodes[i].leaves;
    for (int64_t size = 1; size < leaves; size *= 2)
        for (int into = 0, from; into < tree->count; into = from) {
            for (from = into + 1; from < tree->count && nodes[from].leaves == 0;) from++;
            if (nodes[into].leaves != size || nodes[into].leaf % (2 * size) != 0) continue;
            CHECK(from < tree->count && nodes[from].leaves == size, "node %d has no sibling", into);
            tree->merges[merged++] = (TreeMerge){into, from};
            nodes[into].leaves += size;
            nodes[from].leaves = 0; // it is the other's from now on
        }
    CHECK(merged == tree->count - 1, "%d sums of %d nodes", merged, tree->count);
}

TreeNodes tree_nodes(ShardDeal deal) {
    int most = shard_nodes_most(deal);
    size_t ranks = (size_t)deal.ranks, room = ranks * (size_t)most;
    TreeNodes tree = {.first = malloc((ranks + 1) * sizeof *tree.first),
                      .merges = malloc(room * sizeof *tree.merges)};
    ShardNode of_rank[SHARD_NODES_MAX], *nodes = malloc(room * sizeof *nodes);
    CHECK_MEMORY(tree.first && tree.merges && nodes, "no memory for %zu sums", room);
    for (int64_t rank = 0; rank < deal.ranks; rank++) {
        int count = shard_nodes(deal, rank, of_rank);
        tree.first[rank] = tree.count;
        for (int i = 0; i < count; i++) nodes[tree.count++] = of_rank[i];
    }
    tree.first[deal.ranks] = tree.count;
    find_merges(&tree, nodes);
    free(nodes);
    return tree;
}

void tree_nodes_free(TreeNodes *tree) {
    free(tree->first);
    free(tree->merges);
    *tree = (TreeNodes){0};
}

bool tree_halves(ShardDeal deal) {
    return is_power_of_two(deal.ranks) && deal.shards % deal.ranks == 0 &&
           is_power_of_two(deal.shards / deal.ranks);
}

int64_t tree_sent_elements(ShardDeal deal, int64_t rank, int64_t elements) {
    int64_t sent = 0;
    if (!tree_halves(deal)) {
        ShardNode nodes[SHARD_NODES_MAX];
        int64_t own = deal_count(deal_evenly(elements, deal.ranks), rank);
        return shard_nodes(deal, rank, nodes) * (elements - own) + own * (deal.ranks - 1);
    }
    TreeStep steps[MAX_TREE_STEPS];
    int count = tree_steps(steps, (int)rank, (int)deal.ranks, elements);
    for (int i = 0; i < count; i++) sent += steps[i].given_count + steps[i].kept_count;
    return sent;
}

int64_t tree_scratch_elements(ShardDeal deal, int64_t elements) {
    if (tree_halves(deal)) return deal.ranks > 1 ? (elements + 1) / 2 : 0;
    ShardNode nodes[SHARD_NODES_MAX];
    int64_t all = 0, fewest = SHARD_NODES_MAX;
    for (int64_t rank = 0; rank < deal.ranks; rank++) {
        int64_t count = shard_nodes(deal, rank, nodes);
        all += count;
        fewest = smaller(fewest, count);
    }
    return deal_evenly(elements, deal.ranks).large * (all - fewest);
}

int64_t all_reduce_estimate(int ranks, int64_t bytes) {
    return 2 * bytes * (ranks - 1) / ranks;
}
