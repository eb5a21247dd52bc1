#include "kernels/clock.h"

#include <math.h>
#include <stdio.h>

const char *clock_utc(char text[CLOCK_UTC_BYTES]) {
    struct timespec now;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &now);
    size_t used = strftime(text, CLOCK_UTC_BYTES, "%Y-%m-%dT%H:%M:%S", gmtime_r(&now.tv_sec, &utc));
    snprintf(text + used, CLOCK_UTC_BYTES - used, ".%03dZ", (int)(now.tv_nsec / 1000000));
    return text;
}

const char *clock_duration(double seconds, char text[CLOCK_DURATION_BYTES]) {
    long s = seconds >= 0 && seconds <= 1e12 ? lround(seconds) : 0;
    if (s >= 100 * 3600)
        snprintf(text, CLOCK_DURATION_BYTES, "%ldd%02ldh", s / 86400, s % 86400 / 3600);
    else if (s >= 3600)
        snprintf(text, CLOCK_DURATION_BYTES, "%ldh%02ldm", s / 3600, s % 3600 / 60);
    else if (s >= 60)
        snprintf(text, CLOCK_DURATION_BYTES, "%ldm%02lds", s / 60, s % 60);
    else
        snprintf(text, CLOCK_DURATION_BYTES, "%lds", s);
    return text;
}
