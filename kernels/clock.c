#include "kernels/clock.h"

#include <stdio.h>

const char *clock_utc(char text[CLOCK_UTC_BYTES]) {
    struct timespec now;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &now);
    size_t used = strftime(text, CLOCK_UTC_BYTES, "%Y-%m-%dT%H:%M:%S", gmtime_r(&now.tv_sec, &utc));
    snprintf(text + used, CLOCK_UTC_BYTES - used, ".%03dZ", (int)(now.tv_nsec / 1000000));
    return text;
}
