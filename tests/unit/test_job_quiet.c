// Whose work excuses a rank that waits.
#include "worker/watch/job_quiet.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

enum { RANKS = 4, OWN = 1 };

static RankHealth before[RANKS], now[RANKS];

// All write, and have been quiet for a minute.
static void begin(void) {
    for (int rank = 0; rank < RANKS; rank++) {
        before[rank] = (RankHealth){.known = true, .written_seconds = 100, .quiet_seconds = 50};
        now[rank] = (RankHealth){.known = true, .written_seconds = 110, .quiet_seconds = 60};
    }
}

static double others(void) {
    return job_quiet_of_others(before, now, RANKS, OWN);
}

static void the_last_that_did_something_excuses_the_rest(void **state) {
    (void)state;
    begin();
    assert_true(others() == 60);
    now[2].quiet_seconds = 0.5;
    assert_true(others() == 0.5);
    now[2].written_seconds = 90; // the date was set back
    assert_true(others() == 0.5);
}

static void one_that_does_not_write_excuses_nobody(void **state) {
    (void)state;
    begin();
    now[2].quiet_seconds = before[2].quiet_seconds = 0; // it was at work when it was stopped
    now[2].written_seconds = before[2].written_seconds;
    assert_true(others() == 60);
    now[3].quiet_seconds = 1;
    before[3].known = false;
    assert_true(others() == 60);
    now[0].known = false;
    assert_true(isinf(others()));
}

static void nobody_excuses_itself(void **state) {
    (void)state;
    begin();
    now[OWN].quiet_seconds = 0;
    assert_true(others() == 60);
}

// Alone, as this process is.
static void a_rank_alone_is_as_quiet_as_its_main_thread(void **state) {
    (void)state;
    JobQuiet quiet = {0};
    for (int i = 0; i < 100; i++) {
        job_quiet_pass(&quiet, 0.1, i == 49);
        assert_false(job_quiet_expired(&quiet, 6));
        assert_false(job_quiet_expired(&quiet, 0));
    }
    assert_true(fabs(job_quiet_seconds(&quiet) - 5) < 0.01);
    job_quiet_pass(&quiet, 1.1, false);
    assert_true(job_quiet_expired(&quiet, 6));
    assert_false(job_quiet_expired(&quiet, 0));
    job_quiet_pass(&quiet, 1, true);
    assert_false(job_quiet_expired(&quiet, 6));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_last_that_did_something_excuses_the_rest),
        cmocka_unit_test(one_that_does_not_write_excuses_nobody),
        cmocka_unit_test(nobody_excuses_itself),
        cmocka_unit_test(a_rank_alone_is_as_quiet_as_its_main_thread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
