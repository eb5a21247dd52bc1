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

void tree_merges(TreeMerge *merges, int size, int group_size) {
    int64_t shards = shard_runs_least(size, group_size);
    ShardRun *runs = calloc((size_t)size, sizeof *runs); // count 0: merged into one before
    CHECK_MEMORY(runs, "no memory for the shares of %d ranks", size);
    for (int rank = 0; rank < size; rank++) runs[rank] = shard_run(shards, size, group_size, rank);
    int count = 0;
    for (int64_t node = 1; node < shards; node *= 2)
        for (int into = 0, from; into < size; into = from) {
            for (from = into + 1; from < size && runs[from].count == 0;) from++;
            if (runs[into].count != node || runs[into].first % (2 * node) != 0) continue;
            CHECK(from < size && runs[from].count == node, "rank %d has no sibling", into);
            merges[count++] = (TreeMerge){into, from};
            runs[into].count += node;
            runs[from].count = 0;
        }
    CHECK(count == size - 1, "%d sums of %d ranks", count, size);
    free(runs);
}

int64_t tree_sent_elements(int rank, int size, int64_t elements) {
    int64_t sent = 0;
    if (!is_power_of_two(size)) {
        int64_t own = deal_count(deal_evenly(elements, size), rank);
        return elements - own + own * (size - 1);
    }
    TreeStep steps[MAX_TREE_STEPS];
    int count = tree_steps(steps, rank, size, elements);
    for (int i = 0; i < count; i++) sent += steps[i].given_count + steps[i].kept_count;
    return sent;
}

int64_t tree_scratch_elements(int size, int64_t elements) {
    if (is_power_of_two(size)) return size > 1 ? (elements + 1) / 2 : 0;
    return deal_evenly(elements, size).large * (size - 1);
}

int64_t all_reduce_estimate(int ranks, int64_t bytes) {
    return 2 * bytes * (ranks - 1) / ranks;
}
