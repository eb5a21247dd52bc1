// Time: seconds of a clock that never jumps, for durations, and the date, for people and files.
#ifndef MOETRAIN_KERNELS_CLOCK_H
#define MOETRAIN_KERNELS_CLOCK_H

#include <time.h>

static inline double clock_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

// "2026-01-31T17:53:01.250Z", ISO 8601 in UTC. Returns `text`.
enum { CLOCK_UTC_BYTES = 40 };
const char *clock_utc(char text[CLOCK_UTC_BYTES]);

// "11d06h" from a hundred hours, "2h03m", "4m05s", "17s"; "0s" for what is no length of time.
// Returns `text`.
enum { CLOCK_DURATION_BYTES = 32 };
const char *clock_duration(double seconds, char text[CLOCK_DURATION_BYTES]);

#endif
