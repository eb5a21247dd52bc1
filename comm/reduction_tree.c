#include "comm/reduction_tree.h"

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

int64_t tree_sent_elements(const TreeStep *steps, int count) {
    int64_t sent = 0;
    for (int i = 0; i < count; i++) sent += steps[i].given_count + steps[i].kept_count;
    return sent;
}

int64_t all_reduce_estimate(int ranks, int64_t bytes) {
    return 2 * bytes * (ranks - 1) / ranks;
}
