#include "worker/signals.h"

#include <signal.h>
#include <stddef.h>
#include <time.h>

#include "comm/collectives.h"
#include "kernels/check.h"

static volatile sig_atomic_t received = 0;
static sigset_t requests;

static void note(int number) {
    received = number;
}

// No thread that computes may run a handler: oneDNN's matrix kernels use the stack pointer as a data pointer, and a
// handler that interrupts one would put its frame into the heap. So this thread, and every thread it starts from now on,
// blocks the signals. A thread of the MPI library, which computes nothing, takes them, or they stay pending until
// signals_received asks.
void signals_install(void) {
    static const int numbers[] = {SIGUSR1, SIGTERM, SIGINT};
    struct sigaction action = {.sa_handler = note, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigemptyset(&requests);
    for (int i = 0; i < 3; i++) {
        sigaddset(&requests, numbers[i]);
        sigaction(numbers[i], &action, NULL);
    }
    CHECK(pthread_sigmask(SIG_BLOCK, &requests, NULL) == 0, "cannot block signals");
    signal(SIGPIPE, SIG_IGN); // a closed stdout must not end training
    signal(SIGXFSZ, SIG_IGN); // a file over its limit is an error of write(), with a message
}

int signals_received(void) {
    int number = sigtimedwait(&requests, NULL, &(struct timespec){0});
    if (number > 0) received = number;
    return received;
}

int signals_agreed(Group *world) {
    double number = signals_received();
    all_reduce_max(world, tensor_1d(&number, F64, 1), TRAFFIC_OTHER);
    return (int)number;
}

const char *signal_name(int number) {
    switch (number) {
    case SIGUSR1: return "SIGUSR1";
    case SIGTERM: return "SIGTERM";
    case SIGINT: return "SIGINT";
    default: return "a signal";
    }
}
