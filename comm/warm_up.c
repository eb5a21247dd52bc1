#include "comm/warm_up.h"

#include <stdlib.h>

#include "kernels/arena.h"

enum { WIDTH = 64 };

void collectives_warm_up(ProcessGroups groups, Device *dev, ReduceOrder order) {
    if (dev->place == ON_HOST) return;
    int64_t rows = group_size(groups.world), peers = group_size(groups.expert_parallel);
    Arena arena;
    Tensor x = {0}, y = {0};
    arena_measure(&arena, "the first collectives", dev);
    for (int placing = 0; placing < 2; placing++) {
        x = arena_2d(&arena, F32, rows, WIDTH);
        y = arena_2d(&arena, F32, rows, WIDTH);
        if (!placing) arena_allocate(&arena);
    }
    all_reduce_sum(groups.world, x, order, y, TRAFFIC_OTHER);
    all_reduce_sum(groups.expert_replicas, x, order, y, TRAFFIC_OTHER);
    int64_t *ones = malloc((size_t)peers * sizeof *ones);
    CHECK_MEMORY(ones, "no memory for %lld counts", (long long)peers);
    for (int64_t p = 0; p < peers; p++) ones[p] = 1;
    RowRuns there = {ones, NULL}, back = {ones, NULL};
    if (peers > 1)
        all_to_all_rows(groups.expert_parallel, tensor_rows(y, 0, peers), back,
                        tensor_rows(x, 0, peers), there, TRAFFIC_OTHER);
    free(ones);
    device_synchronize(dev);
    arena_free(&arena);
}
