#include "launcher/supervisor/restart_policy.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static Progress fresh(void) {
    return (Progress){.saved_step = -1, .failed_step = -1};
}

// A start that began at step 0, did steps and saved nothing.
static AttemptEnd ended(int exit_code, int64_t step) {
    return (AttemptEnd){.exit_code = exit_code, .told = true, .step = step, .saved_step = -1};
}

static void every_exit_code_has_an_answer(void **state) {
    (void)state;
    static const struct {
        int exit_code;
        Action action;
    } wanted[] = {
        {0, ACTION_LEAVE},     {1, ACTION_RESTART},   {2, ACTION_LEAVE},
        {3, ACTION_LEAVE},     {4, ACTION_LEAVE},     {5, ACTION_WAIT_FOR_SPACE},
        {6, ACTION_GO_BACK},   {7, ACTION_RESTART},   {8, ACTION_RESTART},
        {9, ACTION_LEAVE},     {70, ACTION_LEAVE},    {75, ACTION_LEAVE},
        {127, ACTION_LEAVE},   {128, ACTION_RESTART}, {137, ACTION_RESTART},
        {139, ACTION_RESTART}, {205, ACTION_RESTART}, {255, ACTION_RESTART},
        {42, ACTION_LEAVE},
    };
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        Progress progress = fresh();
        AttemptEnd end = ended(wanted[i].exit_code, 7);
        end.first = true;
        Decision decision = restart_decide(&progress, &end, 5);
        assert_int_equal(decision.action, wanted[i].action);
        assert_true(decision.reason[0]);
    }
}

static void who_was_asked_to_stop_stays_stopped(void **state) {
    (void)state;
    Progress progress = fresh();
    AttemptEnd end = ended(137, 7);
    end.asked = true;
    assert_int_equal(restart_decide(&progress, &end, 5).action, ACTION_LEAVE);
}

static void who_has_no_time_left_says_so(void **state) {
    (void)state;
    Progress progress = fresh();
    AttemptEnd end = ended(75, 7);
    end.out_of_time = true;
    Decision decision = restart_decide(&progress, &end, 5);
    assert_int_equal(decision.action, ACTION_LEAVE);
    assert_non_null(strstr(decision.reason, "time limit"));
}

static void a_run_directory_that_is_held_is_tried_again_for_ever(void **state) {
    (void)state;
    static const int codes[] = {75, 9}; // a holder that does not answer; one of the start before
    for (int i = 0; i < 2; i++) {
        Progress progress = fresh();
        AttemptEnd end = ended(codes[i], -1);
        end.told = false;
        end.first_step = -1;
        for (int start = 0; start < 2 * MOST_FRUITLESS; start++) {
            Decision decision = restart_decide(&progress, &end, 5);
            assert_int_equal(decision.action, ACTION_RESTART);
            assert_true(decision.wait_seconds == 30);
        }
    }
}

static void two_failures_at_one_step_are_enough(void **state) {
    (void)state;
    Progress progress = fresh();
    AttemptEnd first = ended(137, 17), other = ended(8, 18);
    assert_int_equal(restart_decide(&progress, &first, 5).action, ACTION_RESTART);
    assert_int_equal(restart_decide(&progress, &other, 5).action, ACTION_RESTART);
    assert_int_equal(restart_decide(&progress, &first, 5).action, ACTION_RESTART);
    Decision last = restart_decide(&progress, &first, 5);
    assert_int_equal(last.action, ACTION_LEAVE);
    assert_non_null(strstr(last.reason, "twice after step 17"));
}

static void starts_that_do_no_step_are_tried_longer(void **state) {
    (void)state;
    Progress progress = fresh();
    AttemptEnd end = ended(7, 10);
    end.first_step = 10; // it resumed and did nothing
    for (int start = 1; start < MOST_FRUITLESS; start++)
        assert_int_equal(restart_decide(&progress, &end, 5).action, ACTION_RESTART);
    Decision last = restart_decide(&progress, &end, 5);
    assert_int_equal(last.action, ACTION_LEAVE);
    assert_non_null(strstr(last.reason, "no newer checkpoint"));
}

static void no_step_is_no_step_that_failed(void **state) {
    (void)state;
    Progress progress = fresh();
    AttemptEnd lost = ended(7, -1), idle = ended(7, 10), stepped = ended(7, 10);
    lost.first_step = -1; // it did not get so far
    idle.first_step = 10;
    assert_int_equal(restart_decide(&progress, &lost, 5).action, ACTION_RESTART);
    assert_int_equal(restart_decide(&progress, &lost, 5).action, ACTION_RESTART);
    assert_int_equal(restart_decide(&progress, &idle, 5).action, ACTION_RESTART);
    assert_int_equal(restart_decide(&progress, &stepped, 5).action, ACTION_RESTART);
}

static void waits_double_until_there_is_progress(void **state) {
    (void)state;
    Progress progress = fresh();
    AttemptEnd end = ended(137, 1);
    static const double wanted[] = {5, 10, 20};
    for (int i = 0; i < 3; i++) {
        end.step = i + 1;
        assert_true(restart_decide(&progress, &end, 5).wait_seconds == wanted[i]);
    }
    end.saved_step = end.step = 10;
    assert_true(restart_decide(&progress, &end, 5).wait_seconds == 5);
    end.step = 11;
    assert_true(restart_decide(&progress, &end, 200).wait_seconds == 200);
    end.step = 12;
    assert_true(restart_decide(&progress, &end, 200).wait_seconds == MOST_WAIT_SECONDS);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_exit_code_has_an_answer),
        cmocka_unit_test(who_was_asked_to_stop_stays_stopped),
        cmocka_unit_test(who_has_no_time_left_says_so),
        cmocka_unit_test(a_run_directory_that_is_held_is_tried_again_for_ever),
        cmocka_unit_test(two_failures_at_one_step_are_enough),
        cmocka_unit_test(starts_that_do_no_step_are_tried_longer),
        cmocka_unit_test(no_step_is_no_step_that_failed),
        cmocka_unit_test(waits_double_until_there_is_progress),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
