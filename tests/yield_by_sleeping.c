// sched_yield(2) for ranks that wait, preloaded by the tests (moetrain_test.cmake). Open MPI's
// waiting ranks poll and yield, and where few cores serve many ranks of several tests those that
// wait take most of the time from those that compute: a test of eight ranks under sanitizers took
// 15 CPU seconds, and takes 7. Sleeps of 20 us cost a tenth more, and end no test sooner.
#include <time.h>

int sched_yield(void);

int sched_yield(void) {
    static const struct timespec pause = {0, 100000};
    nanosleep(&pause, NULL);
    return 0;
}
