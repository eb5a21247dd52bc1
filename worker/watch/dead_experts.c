#include "worker/watch/dead_experts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/log.h"
#include "model/router_health.h"

enum { WATCHED_PLACES = ROUTER_OF_SLOTS }; // the first ones of RouterPlace

void dead_experts_open(DeadExperts *dead, const Statistics *stats, int64_t limit) {
    *dead = (DeadExperts){.limit = limit};
    if (limit == 0) return;
    const StatisticsColumn *column;
    for (int place = 0; place < WATCHED_PLACES; place++)
        for (int i = 0; (column = router_health_next(stats, (RouterPlace)place, &i, NULL));)
            dead->count += column->count;
    dead->steps = calloc((size_t)dead->count + 1, sizeof *dead->steps);
    CHECK_MEMORY(dead->steps, "no memory for %lld experts", (long long)dead->count);
}

void dead_experts_close(DeadExperts *dead) {
    free(dead->steps);
    *dead = (DeadExperts){0};
}

// "expert 4", "experts 4, 17", "experts 4, 17, 20, 21, 22, 23, 24, 25 and 9 more"
static void warn(const StatisticsColumn *column, RouterPlace place, const int64_t *steps,
                 int64_t limit, int64_t step) {
    enum { NAMED = 8 };
    char names[256] = "", more[48] = "";
    int64_t count = 0;
    for (int64_t e = 0; e < column->count; e++) {
        if (steps[e] != limit) continue;
        size_t used = strlen(names);
        if (count < NAMED)
            snprintf(names + used, sizeof names - used, "%s%lld", used > 0 ? ", " : "",
                     (long long)e);
        count++;
    }
    if (count == 0) return;
    if (count > NAMED) snprintf(more, sizeof more, " and %lld more", (long long)(count - NAMED));
    log_warn("step %lld: layer %lld%s, expert%s %s%s: dead, without a choice for %lld steps",
             (long long)step, (long long)column->layer, ROUTER_NAMES[place].of,
             count > 1 ? "s" : "", names, more, (long long)limit);
}

static void watch_column(const Statistics *stats, const StatisticsColumn *column, int64_t *steps) {
    const int64_t *routed = statistics_counts_of(stats, column);
    const int64_t *dropped = router_dropped(stats, column);
    for (int64_t e = 0; e < column->count; e++)
        steps[e] = routed[e] + (dropped ? dropped[e] : 0) > 0 ? 0 : steps[e] + 1;
}

void dead_experts_watch(DeadExperts *dead, const Statistics *stats, int64_t step) {
    if (dead->limit == 0) return;
    const StatisticsColumn *column;
    int64_t *steps = dead->steps;
    for (int place = 0; place < WATCHED_PLACES; place++)
        for (int i = 0; (column = router_health_next(stats, (RouterPlace)place, &i, NULL));
             steps += column->count) {
            watch_column(stats, column, steps);
            warn(column, (RouterPlace)place, steps, dead->limit, step);
        }
}

int dead_experts_tensors(DeadExperts *dead, SavedTensor out[DEAD_EXPERTS_TENSORS]) {
    if (dead->count == 0) return 0;
    out[0] = list_tensor("watch/steps_without_choice", I64, dead->count, dead->steps);
    out[0].optional = true;
    return 1;
}
