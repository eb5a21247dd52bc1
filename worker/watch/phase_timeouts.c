#include "worker/watch/phase_timeouts.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

static const double TIMES_THE_LONGEST = 5;
enum { SEEN_ENOUGH = 4 }; // the first times are longer

static int find(const PhaseTimeouts *timeouts, const char *phase) {
    int i = 0;
    while (i < timeouts->count && strcmp(timeouts->of[i].phase, phase) != 0) i++;
    return i;
}

void phase_timeouts_learn(PhaseTimeouts *timeouts, const char *phase, double quiet_seconds) {
    int i = find(timeouts, phase);
    if (i == PHASES_OF_A_STEP) return;
    if (i == timeouts->count) timeouts->of[timeouts->count++].phase = phase;
    timeouts->of[i].longest = fmax(timeouts->of[i].longest, quiet_seconds);
}

double phase_timeouts_of(const PhaseTimeouts *timeouts, const char *phase, int repeats,
                         bool *learned) {
    int i = find(timeouts, phase);
    double seconds = timeouts->most, longest = i < timeouts->count ? timeouts->of[i].longest : 0;
    if (repeats >= SEEN_ENOUGH)
        seconds = fmin(fmax(TIMES_THE_LONGEST * longest, timeouts->least), seconds);
    *learned = seconds < timeouts->most;
    return seconds;
}
