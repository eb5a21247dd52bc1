#include "worker/run/signals.h"

#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <time.h>

#include "comm/collectives.h"

static atomic_int received;
static atomic_bool obeyed;
static sigset_t requests, before;

// No thread that computes may run a handler: oneDNN's matrix kernels use the stack pointer as a
// data pointer, and a handler that interrupts one would put its frame into the heap. So there is no
// handler: this thread, and every thread it starts from now on, blocks the signals. They stay
// pending until the watchdog's thread or signals_received takes them.
void signals_install(void) {
    static const int numbers[] = {SIGUSR1, SIGTERM, SIGINT, SIGHUP};
    sigemptyset(&requests);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        struct sigaction inherited;
        bool nohup = numbers[i] == SIGHUP && sigaction(SIGHUP, NULL, &inherited) == 0 &&
                     inherited.sa_handler == SIG_IGN;
        if (!nohup) sigaddset(&requests, numbers[i]);
    }
    CHECK(pthread_sigmask(SIG_BLOCK, &requests, &before) == 0, "cannot block signals");
    signal(SIGUSR2, SIG_IGN); // mpirun passes it on like SIGUSR1
    signal(SIGPIPE, SIG_IGN); // a closed stdout must not end training
    signal(SIGXFSZ, SIG_IGN); // a file over its limit is an error of write(), with a message
}

void signals_release(void) {
    CHECK(pthread_sigmask(SIG_SETMASK, &before, NULL) == 0, "cannot unblock signals");
}

void signals_wait(double seconds) {
    struct timespec most = {.tv_sec = (time_t)seconds,
                            .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9)};
    int number = sigtimedwait(&requests, NULL, &most);
    if (number > 0) atomic_store(&received, number);
}

void signals_request(int number) {
    atomic_store(&received, number);
}

int signals_received(void) {
    signals_wait(0);
    return atomic_load(&received);
}

int signals_agreed_with(Group *world, bool *request) {
    double both[2] = {signals_received(), *request};
    all_reduce_max(world, tensor_1d(both, F64, 2), TRAFFIC_OTHER);
    if (both[0] > 0) atomic_store(&obeyed, true);
    *request = both[1] > 0;
    return (int)both[0];
}

int signals_agreed(Group *world) {
    bool none = false;
    return signals_agreed_with(world, &none);
}

int signals_unobeyed(void) {
    return atomic_load(&obeyed) ? 0 : atomic_load(&received);
}

const char *signal_name(int number) {
    switch (number) {
    case SIGUSR1:
        return "SIGUSR1";
    case SIGTERM:
        return "SIGTERM";
    case SIGHUP:
        return "SIGHUP";
    case SIGINT:
        return "SIGINT";
    case STOP_TIME_LIMIT:
        return "the time limit";
    case STOP_AT:
        return "run.stop_at";
    default:
        return "a signal";
    }
}
