#include "worker/run/deadline.h"

#include <pthread.h>
#include <time.h>

bool deadline_run(void *(*work)(void *), void *context, int seconds) {
    pthread_t worker;
    struct timespec deadline;
    if (pthread_create(&worker, NULL, work, context) != 0) return false;
    clock_gettime(CLOCK_MONOTONIC, &deadline);
    deadline.tv_sec += seconds;
    return pthread_clockjoin_np(worker, NULL, CLOCK_MONOTONIC, &deadline) == 0;
}
