#include "worker/watchdog.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "comm/collectives.h"
#include "kernels/log.h"

enum { POLL_MILLISECONDS = 100, POLLS_A_CHECK = 10 };

static pthread_t thread;
static atomic_bool watching;
static atomic_ulong beats;
static _Atomic(const char *) phase_now = "start";
static double timeout;

// The clock counts polls that really ran: a whole machine that was suspended is not a hang.
static void *watch(void *unused) {
    unsigned long seen = atomic_load(&beats);
    double quiet_seconds = 0;
    int polls = 0;
    while (atomic_load(&watching)) {
        struct timespec pause = {.tv_nsec = POLL_MILLISECONDS * 1000000L};
        nanosleep(&pause, NULL);
        if (++polls % POLLS_A_CHECK == 0) collectives_check(); // what failed behind our back
        unsigned long now = atomic_load(&beats);
        quiet_seconds = now == seen ? quiet_seconds + POLL_MILLISECONDS * 1e-3 : 0;
        seen = now;
        if (quiet_seconds <= timeout) continue;
        char host[256] = "?";
        gethostname(host, sizeof host - 1);
        fprintf(stderr,
                "moetrain: fatal: rank %d on %s: no progress for %.0f s in: %s; a rank that does "
                "not say this is the "
                "one that stopped (run.hang_timeout sets the limit)\n",
                log_rank(), host, quiet_seconds, atomic_load(&phase_now));
        fflush(stderr);
        _exit(EXIT_HANG);
    }
    return unused;
}

void watchdog_start(double timeout_seconds) {
    if (timeout_seconds <= 0) return;
    timeout = timeout_seconds;
    atomic_store(&watching, true);
    CHECK(pthread_create(&thread, NULL, watch, NULL) == 0, "cannot start the watchdog thread");
}

void watchdog_beat(const char *phase) {
    atomic_store(&phase_now, phase);
    atomic_fetch_add(&beats, 1);
}

void watchdog_stop(void) {
    if (!atomic_exchange(&watching, false)) return;
    pthread_join(thread, NULL);
}
