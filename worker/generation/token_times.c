#include "worker/generation/token_times.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/check.h"
#include "kernels/clock.h"

void token_times_begin(TokenTimes *times) {
    times->count = 0;
    times->last = clock_seconds();
}

void token_times_add(TokenTimes *times) {
    if (times->count == times->room) {
        times->room = 2 * times->room + 64;
        times->seconds = realloc(times->seconds, (size_t)times->room * sizeof *times->seconds);
        CHECK_MEMORY(times->seconds, "no memory for %lld times", (long long)times->room);
    }
    double now = clock_seconds();
    times->seconds[times->count++] = now - times->last;
    times->last = now;
}

void token_times_free(TokenTimes *times) {
    free(times->seconds);
    *times = (TokenTimes){0};
}

double token_times_first_ms(const TokenTimes *times) {
    return times->count > 0 ? 1e3 * times->seconds[0] : NAN;
}

static int compare(const void *a, const void *b) {
    double one = *(const double *)a, other = *(const double *)b;
    return (one > other) - (one < other);
}

double token_times_later_ms(const TokenTimes *times) {
    if (times->count < 2) return NAN;
    size_t count = (size_t)times->count - 1;
    double *sorted = malloc(count * sizeof *sorted);
    CHECK_MEMORY(sorted, "no memory for %zu times", count);
    memcpy(sorted, times->seconds + 1, count * sizeof *sorted);
    qsort(sorted, count, sizeof *sorted, compare);
    double median = (sorted[(count - 1) / 2] + sorted[count / 2]) / 2;
    free(sorted);
    return 1e3 * median;
}
