#include "worker/watch/dead_experts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/log.h"
#include "model/router_health.h"

void dead_experts_open(DeadExperts *dead, const Statistics *stats, int64_t limit) {
    *dead = (DeadExperts){.limit = limit};
    if (limit == 0) return;
    const StatisticsColumn *column;
    for (int i = 0; (column = router_health_next(stats, ROUTER_OF_FEED_FORWARD, &i, NULL));)
        dead->count += column->count;
    dead->steps = calloc((size_t)dead->count + 1, sizeof *dead->steps);
    CHECK_MEMORY(dead->steps, "no memory for %lld experts", (long long)dead->count);
}

void dead_experts_close(DeadExperts *dead) {
    free(dead->steps);
    *dead = (DeadExperts){0};
}

// "expert 4", "experts 4, 17", "experts 4, 17, 20, 21, 22, 23, 24, 25 and 9 more"
static void warn(int64_t layer, const int64_t *steps, int64_t E, int64_t limit, int64_t step) {
    enum { NAMED = 8 };
    char names[256] = "", more[48] = "";
    int64_t count = 0;
    for (int64_t e = 0; e < E; e++) {
        if (steps[e] != limit) continue;
        size_t used = strlen(names);
        if (count < NAMED)
            snprintf(names + used, sizeof names - used, "%s%lld", used > 0 ? ", " : "",
                     (long long)e);
        count++;
    }
    if (count == 0) return;
    if (count > NAMED) snprintf(more, sizeof more, " and %lld more", (long long)(count - NAMED));
    log_warn("step %lld: layer %lld, expert%s %s%s: dead, without a choice for %lld steps",
             (long long)step, (long long)layer, count > 1 ? "s" : "", names, more,
             (long long)limit);
}

void dead_experts_watch(DeadExperts *dead, const Statistics *stats, int64_t step) {
    if (dead->limit == 0) return;
    const StatisticsColumn *column;
    int64_t *steps = dead->steps;
    for (int i = 0; (column = router_health_next(stats, ROUTER_OF_FEED_FORWARD, &i, NULL));
         steps += column->count) {
        const int64_t *routed = statistics_counts_of(stats, column);
        const int64_t *dropped = statistics_count_values(stats, "dropped", column->layer);
        for (int64_t e = 0; e < column->count; e++)
            steps[e] = routed[e] + dropped[e] > 0 ? 0 : steps[e] + 1;
        warn(column->layer, steps, column->count, dead->limit, step);
    }
}

int dead_experts_tensors(DeadExperts *dead, SavedTensor out[DEAD_EXPERTS_TENSORS]) {
    if (dead->count == 0) return 0;
    out[0] = (SavedTensor){.name = "watch/steps_without_choice",
                           .dtype = I64,
                           .rank = 1,
                           .shape = {dead->count, 1, 1},
                           .elements = dead->count,
                           .replicated = true,
                           .optional = true,
                           .data = dead->steps};
    return 1;
}
