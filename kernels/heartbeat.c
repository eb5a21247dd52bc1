#include "kernels/heartbeat.h"

#include <stdatomic.h>
#include <stddef.h>

static atomic_ulong beats;
static _Atomic(const char *) phase_now = "start";

void watchdog_beat(const char *phase) {
    if (phase) atomic_store(&phase_now, phase);
    atomic_fetch_add_explicit(&beats, 1, memory_order_relaxed);
}

unsigned long heartbeat_count(void) {
    return atomic_load_explicit(&beats, memory_order_relaxed);
}

const char *heartbeat_phase(void) {
    return atomic_load(&phase_now);
}
