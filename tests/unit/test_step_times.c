// Where the time of a step goes, from what each rank took.
#include "worker/watch/step_times.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

enum { RANKS = 3 };

static void assert_near(double x, double wanted) {
    double off = x - wanted;
    assert_true(off < 1e-12 && off > -1e-12);
}

// Three ranks whose steps all take 1 second.
static void a_step_is_the_sum_of_its_parts(void **state) {
    (void)state;
    //                                    own, exchange, reduction, other
    const double times[RANKS * TIMED_KINDS] = {0.8, 0.1,  0.05, 0.05, //
                                               0.5, 0.35, 0.1,  0.05, //
                                               0.5, 0.3,  0.1,  0.1};
    double parts[STEP_PARTS];
    step_parts_find(times, RANKS, parts);
    assert_near(parts[PART_COMPUTE], 0.6);
    assert_near(parts[PART_EXCHANGE], 0.1);
    assert_near(parts[PART_REDUCTION], 0.05);
    assert_near(parts[PART_OTHER], 0.05);
    assert_near(parts[PART_IMBALANCE], 0.2); // the first computes so much longer than the mean
    assert_near(parts[PART_WAIT], 0);
    assert_near(step_parts_sum(parts), 1);
    char text[STEP_PARTS_BYTES];
    assert_string_equal(step_parts_describe(parts, text),
                        "compute 60.0 %, imbalance 20.0, wait 0.0, exchange 10.0, reduction 5.0, "
                        "other 5.0");
}

// Each computes as long as the others, but another one is late each time.
static void ranks_that_are_late_in_turns_make_the_others_wait(void **state) {
    (void)state;
    const double times[RANKS * TIMED_KINDS] = {0.7, 0.1, 0.2, 0, //
                                               0.7, 0.2, 0.1, 0, //
                                               0.7, 0.2, 0.1, 0};
    double parts[STEP_PARTS];
    step_parts_find(times, RANKS, parts);
    assert_near(parts[PART_COMPUTE], 0.7);
    assert_near(parts[PART_IMBALANCE], 0);
    assert_near(parts[PART_EXCHANGE], 0.1);
    assert_near(parts[PART_REDUCTION], 0.1);
    assert_near(parts[PART_WAIT], 0.1);
    assert_near(step_parts_sum(parts), 1);
}

// One that ends a step earlier than the others has waited less than the busiest computed longer.
static void no_part_is_negative(void **state) {
    (void)state;
    const double times[RANKS * TIMED_KINDS] = {0.9, 0.1, 0, 0, //
                                               0.6, 0.1, 0, 0, //
                                               0.6, 0.2, 0, 0};
    double parts[STEP_PARTS];
    step_parts_find(times, RANKS, parts);
    for (int i = 0; i < STEP_PARTS; i++) assert_true(parts[i] >= 0);
    assert_near(step_parts_sum(parts), 2.5 / 3);
}

static void one_rank_alone_is_not_timed(void **state) {
    (void)state;
    StepTimes times;
    step_times_open(&times, 1);
    step_times_begin(&times);
    step_times_end(&times, 1);
    assert_int_equal(step_times_look(&times), 0);
    assert_true(step_parts_sum(times.parts) == 0);
    step_times_close(&times);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_is_the_sum_of_its_parts),
        cmocka_unit_test(ranks_that_are_late_in_turns_make_the_others_wait),
        cmocka_unit_test(no_part_is_negative),
        cmocka_unit_test(one_rank_alone_is_not_timed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
