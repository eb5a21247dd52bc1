#include "worker/data/mix_schedule.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/integers.h"
#include "kernels/rng.h"

enum { TIES = 9 }; // a round that neither permutation nor offset of data_loader.c uses

bool mix_shares(const Rational *weights, int count, int64_t share[DATA_SOURCES_MAX], Error *err) {
    int64_t denominator = 1, divisor = 0, sum = 0;
    memset(share, 0, DATA_SOURCES_MAX * sizeof *share);
    for (int s = 0; s < count; s++) {
        int64_t d = weights[s].denominator;
        denominator *= d / greatest_common_divisor(denominator, d);
        if (denominator > MIX_PERIOD_MAX) break;
    }
    for (int s = 0; s < count && denominator <= MIX_PERIOD_MAX; s++) {
        share[s] = weights[s].numerator * (denominator / weights[s].denominator);
        divisor = greatest_common_divisor(share[s], divisor);
    }
    for (int s = 0; s < count && divisor > 0; s++) {
        share[s] /= divisor;
        sum += share[s];
    }
    if (sum > 0 && sum <= MIX_PERIOD_MAX) return true;
    if (sum == 0 && denominator <= MIX_PERIOD_MAX)
        return error_set(err, EXIT_CONFIG,
                         "no source has a weight above 0; give one of them a weight");
    return error_set(err, EXIT_CONFIG,
                     "they have no common measure of at most %d parts; round them, as in 0.62 and "
                     "0.38",
                     (int)MIX_PERIOD_MAX);
}

// The last number, and one more, at which the next window of a source may come.
static int64_t deadline(const MixSchedule *schedule, int s, int64_t had) {
    return ((had + 1) * schedule->period + schedule->share[s] - 1) / schedule->share[s];
}

void mix_schedule_make(MixSchedule *schedule, const int64_t share[DATA_SOURCES_MAX], int count,
                       uint64_t seed) {
    *schedule = (MixSchedule){.count = count};
    for (int s = 0; s < count; s++) schedule->period += schedule->share[s] = share[s];
    size_t period = (size_t)schedule->period;
    schedule->source = malloc(period * sizeof *schedule->source);
    schedule->number = malloc(period * sizeof *schedule->number);
    CHECK_MEMORY(schedule->source && schedule->number, "no memory for a mix of %zu parts", period);
    int64_t had[DATA_SOURCES_MAX] = {0};
    for (int64_t n = 0; n < schedule->period; n++) {
        RngStream ties = {seed, RNG_DATA_ORDER, (uint32_t)n, TIES};
        int chosen = -1;
        int64_t first = INT64_MAX;
        uint32_t drawn = 0;
        for (int s = 0; s < schedule->count; s++) {
            bool none = schedule->share[s] == 0;
            if (none || had[s] * schedule->period / schedule->share[s] > n) continue; // too early
            int64_t end = deadline(schedule, s, had[s]);
            uint32_t draw = rng_u32(ties, (uint32_t)s);
            if (end > first || (end == first && draw <= drawn)) continue;
            chosen = s;
            first = end;
            drawn = draw;
        }
        CHECK(chosen >= 0 && n < first, "window %lld of a mix has no source", (long long)n);
        schedule->source[n] = (uint8_t)chosen;
        schedule->number[n] = (int32_t)had[chosen]++;
    }
}

void mix_schedule_free(MixSchedule *schedule) {
    free(schedule->source);
    free(schedule->number);
    *schedule = (MixSchedule){0};
}

int mix_schedule_source(const MixSchedule *schedule, int64_t n, int64_t *number) {
    int64_t at = n % schedule->period;
    int s = schedule->source[at];
    *number = n / schedule->period * schedule->share[s] + schedule->number[at];
    return s;
}

int64_t mix_schedule_count(const MixSchedule *schedule, int source, int64_t n) {
    int64_t count = n / schedule->period * schedule->share[source];
    for (int64_t i = 0; i < n % schedule->period; i++) count += schedule->source[i] == source;
    return count;
}
