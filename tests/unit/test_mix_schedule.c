#include "worker/data/mix_schedule.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static MixSchedule make(const Rational *weights, int count, uint64_t seed) {
    int64_t share[DATA_SOURCES_MAX];
    MixSchedule schedule;
    Error err = {0};
    if (!mix_shares(weights, count, share, &err)) fail_msg("%s", err.message);
    mix_schedule_make(&schedule, share, count, seed);
    return schedule;
}

static const Rational MIXES[][5] = {
    {{1, 1}},                                           // one source
    {{7, 10}, {3, 10}},                                 //
    {{1, 1}, {1, 1}, {1, 1}},                           // equal ones
    {{1, 3}, {2, 7}, {1, 100}},                         // no whole number of percents
    {{1, 2}, {1, 4}, {1, 8}, {1, 16}, {1, 16}},         //
    {{9999, 10000}, {1, 10000}},                        // a rare one
    {{1, 2}, {0, 1}, {1, 3}},                           // one that is not read
    {{99, 100}, {98, 100}, {97, 100}, {1, 7}, {5, 13}}, //
};

// Three periods, or many windows of a short one.
static void every_count_is_within_one_of_its_share_at_every_window(void **state) {
    (void)state;
    for (size_t m = 0; m < sizeof MIXES / sizeof *MIXES; m++) {
        int count = 0;
        while (count < 5 && MIXES[m][count].denominator) count++;
        MixSchedule schedule = make(MIXES[m], count, 1337 + m);
        int64_t had[5] = {0};
        for (int64_t n = 0; n < 3 * schedule.period + 100; n++) {
            for (int s = 0; s < count; s++) {
                int64_t off = had[s] * schedule.period - n * schedule.share[s];
                if (llabs(off) >= schedule.period)
                    fail_msg("mix %zu: %lld windows of source %d among the first %lld", m,
                             (long long)had[s], s, (long long)n);
            }
            int64_t number;
            int s = mix_schedule_source(&schedule, n, &number);
            assert_int_equal(had[s], number);
            had[s]++;
        }
        for (int s = 0; s < count; s++)
            assert_int_equal(had[s], mix_schedule_count(&schedule, s, 3 * schedule.period + 100));
        mix_schedule_free(&schedule);
    }
}

static void shares_are_those_of_the_weights(void **state) {
    (void)state;
    const Rational weights[] = {{3, 10}, {3, 5}, {3, 2}};
    MixSchedule schedule = make(weights, 3, 1);
    assert_int_equal(8, schedule.period);
    assert_int_equal(1, schedule.share[0]);
    assert_int_equal(2, schedule.share[1]);
    assert_int_equal(5, schedule.share[2]);
    mix_schedule_free(&schedule);
}

static void the_seed_says_who_of_equal_ones_goes_first(void **state) {
    (void)state;
    const Rational weights[] = {{1, 1}, {1, 1}, {1, 1}, {1, 1}};
    bool first[4] = {false};
    for (uint64_t seed = 0; seed < 64; seed++) {
        MixSchedule schedule = make(weights, 4, seed), again = make(weights, 4, seed);
        assert_memory_equal(schedule.source, again.source, (size_t)schedule.period);
        first[schedule.source[0]] = true;
        mix_schedule_free(&schedule);
        mix_schedule_free(&again);
    }
    for (int s = 0; s < 4; s++) assert_true(first[s]);
}

static void far_away_numbers_cost_nothing(void **state) {
    (void)state;
    const Rational weights[] = {{7, 10}, {3, 10}};
    MixSchedule schedule = make(weights, 2, 1);
    int64_t far = (int64_t)1 << 50, near_number, far_number;
    assert_int_equal(mix_schedule_source(&schedule, 3, &near_number),
                     mix_schedule_source(&schedule, 10 * far + 3, &far_number));
    int64_t share = schedule.share[schedule.source[3]];
    assert_true(far_number == near_number + far * share);
    mix_schedule_free(&schedule);
}

static void weights_without_a_common_measure_are_refused(void **state) {
    (void)state;
    const Rational weights[] = {{1, 9973}, {1, 9967}, {1, 9949}}, none[] = {{0, 1}, {0, 1}};
    int64_t share[DATA_SOURCES_MAX];
    Error err = {0};
    assert_false(mix_shares(weights, 3, share, &err));
    assert_int_equal(EXIT_CONFIG, err.exit_code);
    assert_non_null(strstr(err.message, "round them"));
    assert_false(mix_shares(none, 2, share, &err));
    assert_non_null(strstr(err.message, "no source has a weight"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_count_is_within_one_of_its_share_at_every_window),
        cmocka_unit_test(shares_are_those_of_the_weights),
        cmocka_unit_test(the_seed_says_who_of_equal_ones_goes_first),
        cmocka_unit_test(far_away_numbers_cost_nothing),
        cmocka_unit_test(weights_without_a_common_measure_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
