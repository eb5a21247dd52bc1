#include "worker/signals.h"

#include <signal.h>
#include <stddef.h>

static volatile sig_atomic_t received = 0;

static void note(int number) {
    received = number;
}

void signals_install(void) {
    struct sigaction action = {.sa_handler = note, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    signal(SIGPIPE, SIG_IGN); // a closed stdout must not end training
}

int signals_received(void) {
    return received;
}

const char *signal_name(int number) {
    switch (number) {
    case SIGUSR1:
        return "SIGUSR1";
    case SIGTERM:
        return "SIGTERM";
    case SIGINT:
        return "SIGINT";
    default:
        return "a signal";
    }
}
