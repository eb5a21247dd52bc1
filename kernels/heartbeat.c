#include "kernels/heartbeat.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

static atomic_ulong beats, beats_behind;
static _Thread_local bool behind;
static atomic_int repeats; // of the present phase
static _Atomic(const char *) phase_now = "start";

void watchdog_beat_each_step(const char *phase) {
    static struct {
        const char *phase;
        int begun;
    } known[8];
    static int count;
    int i = 0;
    while (i < count && known[i].phase != phase) i++;
    if (i == count && count < (int)(sizeof known / sizeof *known)) known[count++].phase = phase;
    atomic_store(&repeats, i < count ? ++known[i].begun : 0);
    atomic_store(&phase_now, phase);
    watchdog_beat(NULL);
}

int heartbeat_repeats(void) {
    return atomic_load(&repeats);
}

void watchdog_beat(const char *phase) {
    if (phase && !behind) {
        atomic_store(&repeats, 0);
        atomic_store(&phase_now, phase);
    }
    atomic_fetch_add_explicit(behind ? &beats_behind : &beats, 1, memory_order_relaxed);
}

void heartbeat_behind(void) {
    behind = true;
}

unsigned long heartbeat_count_behind(void) {
    return atomic_load_explicit(&beats_behind, memory_order_relaxed);
}

unsigned long heartbeat_count(void) {
    return atomic_load_explicit(&beats, memory_order_relaxed);
}

const char *heartbeat_phase(void) {
    return atomic_load(&phase_now);
}
