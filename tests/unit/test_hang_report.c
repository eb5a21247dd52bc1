// Who is named when nothing goes on, from what the ranks have written.
#include "worker/watch/hang_report.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { RANKS = 6, QUIET_SECONDS = 10 };

static bool known_collective(int64_t number, FlightRecord *record) {
    *record = (FlightRecord){.number = number,
                             .name = "all_reduce_sum",
                             .kind = "gradients",
                             .group = "world",
                             .bytes = 4096};
    return number >= 90;
}

// Every rank waits in collective 100, on a host of its own.
static void all_wait(RankHealth all[RANKS]) {
    for (int rank = 0; rank < RANKS; rank++) {
        all[rank] = (RankHealth){.known = true,
                                 .time = "2026-01-31T17:53:01.250Z",
                                 .silent_seconds = 1,
                                 .phase = "summing up the step",
                                 .number = 100};
        snprintf(all[rank].place.host, sizeof all[rank].place.host, "h%d", rank);
    }
}

static char text[HANG_REPORT_BYTES];

static void expect(const RankHealth *all, int ranks, const char *wanted) {
    hang_report_laggards(all, ranks, 0, QUIET_SECONDS, known_collective, text);
    assert_string_equal(text, wanted);
}

static void one_that_is_elsewhere_is_named_with_what_it_has_not_reached(void **state) {
    (void)state;
    RankHealth all[RANKS];
    all_wait(all);
    all[3].number = 99;
    all[3].ended = true;
    snprintf(all[3].phase, sizeof all[3].phase, "saving a checkpoint");
    expect(all, RANKS,
           "rank 3 on h3 is in: saving a checkpoint, and has not reached collective 100 "
           "(all_reduce_sum of 4096 bytes, gradients, world)");
    // A partner that waits for it in another group is as far, and not to blame.
    all[2].number = 99;
    hang_report_laggards(all, RANKS, 3, QUIET_SECONDS, known_collective, text);
    assert_non_null(strstr(text, "rank 3 on h3 (this one) is in: saving"));
    assert_null(strstr(text, "rank 2"));
    all[3].number = 50; // of which nobody has a record any more
    expect(all, RANKS,
           "rank 3 on h3 is in: saving a checkpoint, and has not reached collective 51");
}

static void one_that_does_not_write_is_named_before_those_that_are_behind(void **state) {
    (void)state;
    RankHealth all[RANKS];
    all_wait(all);
    all[1].number = 90;
    all[4].silent_seconds = 9.9;
    expect(all, RANKS,
           "rank 4 on h4 stopped beating at 2026-01-31T17:53:01.250Z in: summing up the step; its "
           "host answers: the process was stopped");
    all[4].silent_seconds = 5; // a slow disk explains that
    hang_report_laggards(all, RANKS, 0, QUIET_SECONDS, known_collective, text);
    assert_non_null(strstr(text, "rank 1 on h1 is in"));
    all[4].silent_seconds = 40; // and not that
    hang_report_laggards(all, RANKS, 0, 600, known_collective, text);
    assert_non_null(strstr(text, "rank 4 on h4 stopped"));
    all[5] = (RankHealth){.place = {.host = "h5"}};
    hang_report_laggards(all, RANKS, 0, QUIET_SECONDS, known_collective, text);
    assert_non_null(strstr(text, "rank 5 on h5 has written no health file"));
}

static void a_host_that_does_not_answer_is_named_by_those_that_are_not_cut_off(void **state) {
    (void)state;
    RankHealth all[RANKS];
    all_wait(all);
    all[1].number = 99;
    all[4].cut_off = true;
    snprintf(all[4].place.address, sizeof all[4].place.address, "10.0.0.4");
    expect(all, RANKS,
           "rank 4 on h4 is in: summing up the step; its host does not answer at 10.0.0.4: it is "
           "gone or cut off");
    all[4].silent_seconds = 9.9;
    hang_report_laggards(all, RANKS, 0, QUIET_SECONDS, known_collective, text);
    assert_non_null(strstr(text, "rank 4 on h4 stopped beating"));
    assert_non_null(strstr(text, "it is gone or cut off"));
    all[4].silent_seconds = 1;
    expect(all + 3, 2, // of two hosts nobody knows which one it is
           "rank 1 on h4 is in: summing up the step; its host does not answer at 10.0.0.4: it is "
           "gone or cut off");
    for (int rank = 1; rank < RANKS; rank++) all[rank].cut_off = true;
    expect(all, RANKS, "this host, h0, reaches none of the others: it is cut off");
}

static void all_in_one_collective_is_the_network(void **state) {
    (void)state;
    RankHealth all[RANKS];
    all_wait(all);
    expect(all, RANKS,
           "all ranks write, and wait in collective 100: look at the network between them");
    expect(all, 1, "");
}

static void many_are_counted(void **state) {
    (void)state;
    RankHealth all[RANKS];
    all_wait(all);
    for (int rank = 1; rank < RANKS; rank++) all[rank].number = 99;
    hang_report_laggards(all, RANKS, 0, QUIET_SECONDS, known_collective, text);
    assert_non_null(strstr(text, "rank 4 on h4"));
    assert_null(strstr(text, "rank 5"));
    assert_non_null(strstr(text, "; and 1 more"));
    for (int rank = 0; rank < RANKS; rank++) // as long as texts can be
        memset(all[rank].phase, 'x', sizeof all[rank].phase - 1);
    hang_report_laggards(all, RANKS, 0, QUIET_SECONDS, known_collective, text);
    assert_true(strlen(text) < HANG_REPORT_BYTES);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_that_is_elsewhere_is_named_with_what_it_has_not_reached),
        cmocka_unit_test(one_that_does_not_write_is_named_before_those_that_are_behind),
        cmocka_unit_test(a_host_that_does_not_answer_is_named_by_those_that_are_not_cut_off),
        cmocka_unit_test(all_in_one_collective_is_the_network),
        cmocka_unit_test(many_are_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
