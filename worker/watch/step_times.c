#include "worker/watch/step_times.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "comm/collectives.h"
#include "comm/comm.h"
#include "kernels/check.h"

const char *const STEP_PART_NAMES[STEP_PARTS] = {"compute",  "imbalance", "wait",
                                                 "exchange", "reduction", "other"};

void step_times_open(StepTimes *times, int ranks) {
    *times = (StepTimes){.ranks = ranks};
    if (ranks == 1) return;
    times->of_all = calloc((size_t)ranks * TIMED_KINDS, sizeof *times->of_all);
    CHECK_MEMORY(times->of_all, "no memory for the times of %d ranks", ranks);
}

void step_times_close(StepTimes *times) {
    free(times->of_all);
    *times = (StepTimes){0};
}

// ---- on this rank -------------------------------------------------------------------------------

static void read_waits(double waits[TIMED_KINDS]) {
    static const TimedKind timed[TRAFFIC_KINDS] = {
        [TRAFFIC_DISPATCH] = TIMED_EXCHANGE, [TRAFFIC_COMBINE] = TIMED_EXCHANGE,
        [TRAFFIC_COUNTS] = TIMED_EXCHANGE,   [TRAFFIC_GRADIENTS] = TIMED_REDUCTION,
        [TRAFFIC_STATISTICS] = TIMED_OTHER,  [TRAFFIC_OTHER] = TIMED_OTHER};
    for (int i = 0; i < TIMED_KINDS; i++) waits[i] = 0;
    for (int kind = 0; kind < TRAFFIC_KINDS; kind++)
        waits[timed[kind]] += collectives_waited_seconds((TrafficKind)kind);
}

void step_times_begin(StepTimes *times) {
    if (times->of_all) read_waits(times->begun);
}

void step_times_end(StepTimes *times, double step_seconds) {
    double waits[TIMED_KINDS], own = step_seconds;
    if (!times->of_all) return;
    read_waits(waits);
    for (int i = TIMED_OWN + 1; i < TIMED_KINDS; i++) {
        times->sums[i] += waits[i] - times->begun[i];
        own -= waits[i] - times->begun[i];
    }
    times->sums[TIMED_OWN] += own;
    times->steps++;
}

// ---- on all -------------------------------------------------------------------------------------

int64_t step_times_look(StepTimes *times) {
    int64_t steps = times->steps;
    if (!times->of_all || steps == 0) return 0;
    double mine[TIMED_KINDS];
    for (int i = 0; i < TIMED_KINDS; i++) {
        mine[i] = times->sums[i] / (double)steps;
        times->sums[i] = 0;
    }
    mine[TIMED_OWN] = fmax(mine[TIMED_OWN], 1e-9);
    times->steps = 0;
    all_gather(comm_world(), tensor_1d(times->of_all, F64, (int64_t)times->ranks * TIMED_KINDS),
               tensor_1d(mine, F64, TIMED_KINDS), TRAFFIC_OTHER);
    step_parts_find(times->of_all, times->ranks, times->parts);
    for (int i = 0; i < STEP_PARTS; i++) times->total[i] += (double)steps * times->parts[i];
    times->total_steps += steps;
    return steps;
}

void step_parts_find(const double *of_all, int ranks, double parts[STEP_PARTS]) {
    double means[TIMED_KINDS] = {0}, least[TIMED_KINDS], most = 0, waiting = 0;
    for (int i = 0; i < TIMED_KINDS; i++) {
        least[i] = INFINITY;
        for (int rank = 0; rank < ranks; rank++) {
            double seconds = of_all[rank * TIMED_KINDS + i];
            means[i] += seconds / ranks;
            least[i] = fmin(least[i], seconds);
            if (i == TIMED_OWN) most = fmax(most, seconds);
        }
        if (i != TIMED_OWN) waiting += means[i] - least[i];
    }
    parts[PART_COMPUTE] = means[TIMED_OWN];
    parts[PART_IMBALANCE] = fmin(most - means[TIMED_OWN], waiting);
    parts[PART_WAIT] = waiting - parts[PART_IMBALANCE];
    parts[PART_EXCHANGE] = least[TIMED_EXCHANGE];
    parts[PART_REDUCTION] = least[TIMED_REDUCTION];
    parts[PART_OTHER] = least[TIMED_OTHER];
}

double step_parts_sum(const double parts[STEP_PARTS]) {
    double sum = 0;
    for (int i = 0; i < STEP_PARTS; i++) sum += parts[i];
    return sum;
}

const char *step_parts_describe(const double parts[STEP_PARTS], char text[STEP_PARTS_BYTES]) {
    double sum = step_parts_sum(parts);
    int used = 0;
    for (int i = 0; i < STEP_PARTS && used < STEP_PARTS_BYTES; i++)
        used += snprintf(text + used, (size_t)(STEP_PARTS_BYTES - used), "%s%s %.1f%s",
                         i == 0 ? "" : ", ", STEP_PART_NAMES[i], 100 * parts[i] / sum,
                         i == 0 ? " %" : "");
    return text;
}
