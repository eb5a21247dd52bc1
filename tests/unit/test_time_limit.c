// How often Slurm is asked for the end of the job: every five minutes, and every five seconds
// shortly before the run would be stopped for its answer. Clock and Slurm are of this file.
#include "worker/run/time_limit.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <time.h>

#include <cmocka.h>

static double now = 1000, answer = INFINITY;
static int questions;

int __real_clock_gettime(clockid_t clock, struct timespec *time);
int __wrap_clock_gettime(clockid_t clock, struct timespec *time);
bool __wrap_job_end_ask(JobEnd *end);

int __wrap_clock_gettime(clockid_t clock, struct timespec *time) {
    if (clock != CLOCK_MONOTONIC) return __real_clock_gettime(clock, time);
    *time = (struct timespec){.tv_sec = (time_t)now};
    return 0;
}

bool __wrap_job_end_ask(JobEnd *end) {
    questions++;
    end->at = answer;
    return true;
}

// Asks each second, as the thread of files does, and says how often Slurm was.
static int asked_within(int seconds) {
    int before = questions;
    for (int i = 0; i < seconds; i++) {
        now++;
        time_limit_ask();
    }
    return questions - before;
}

static void slurm_is_asked_every_five_minutes_and_more_often_near_the_end(void **state) {
    (void)state;
    time_limit_begin(0, false);
    time_limit_ask(); // the rhythm begins
    assert_int_equal(asked_within(299), 0);
    assert_int_equal(asked_within(1), 1);
    assert_int_equal(asked_within(299), 0);
    answer = now + 400; // somebody has set a limit
    assert_int_equal(asked_within(1), 1);
    assert_true(time_limit_end().at == answer);
    assert_int_equal(asked_within(299), 0);
    assert_int_equal(asked_within(1), 1);
    // 99 seconds are left, of which a save and leaving take 2: 15 more are near.
    assert_int_equal(asked_within(80), 0);
    answer = now + 1000; // and has prolonged it
    assert_int_equal(asked_within(5), 1);
    assert_true(time_limit_end().at == answer);
    assert_int_equal(asked_within(297), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slurm_is_asked_every_five_minutes_and_more_often_near_the_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
