// Who holds the others up, from how long each rank computes.
#include "worker/watch/stragglers.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

enum { RANKS = 4, LIMIT = 20 };

static double seconds[RANKS * TIMED_KINDS];
static const StepTimes times = {.ranks = RANKS, .of_all = seconds};
static int64_t behind[RANKS];
static const RankPlace places[RANKS] = {
    {.host = "h0"}, {.host = "h0"}, {.host = "h1"}, {.host = "h1"}};
static Stragglers watched;

static void begin(void) {
    memset(behind, 0, sizeof behind);
    watched = (Stragglers){.limit = LIMIT, .ranks = RANKS, .places = places, .behind = behind};
}

// Ten steps in which rank 2 takes `slow` seconds a step and the others `usual`; how many it names.
static int look(double usual, double slow) {
    for (int rank = 0; rank < RANKS; rank++)
        seconds[rank * TIMED_KINDS + TIMED_OWN] = rank == 2 ? slow : usual;
    return stragglers_judge(&watched, &times, 10, 10);
}

static void one_that_is_slow_for_long_is_named_once(void **state) {
    (void)state;
    begin();
    assert_int_equal(look(0.1, 0.15), 0);
    assert_false(stragglers_has_one(&watched));
    assert_int_equal(look(0.1, 0.15), 1);
    assert_true(stragglers_has_one(&watched));
    assert_int_equal(watched.slowest, 2);
    assert_true(watched.score > 0.66 && watched.score < 0.67);
    assert_int_equal(look(0.1, 0.15), 0);
    assert_int_equal(look(0.1, 0.1), 0); // and again after it has caught up
    assert_false(stragglers_has_one(&watched));
    assert_int_equal(look(0.1, 0.15), 0);
    assert_int_equal(look(0.1, 0.15), 1);
}

static void a_little_slower_is_none(void **state) {
    (void)state;
    begin();
    for (int i = 0; i < 5; i++) assert_int_equal(look(0.1, 0.14), 0);
    for (int i = 0; i < 5; i++) assert_int_equal(look(0.0001, 0.001), 0); // less than a millisecond
    assert_true(watched.score < 0.2);
}

static void one_that_owns_more_shards_may_take_as_much_longer(void **state) {
    (void)state;
    int64_t shards[RANKS] = {2, 2, 4, 2};
    begin();
    watched.shards = shards;
    for (int i = 0; i < 5; i++) assert_int_equal(look(0.1, 0.2), 0);
    assert_true(watched.score == 1);
    assert_int_equal(look(0.1, 0.3), 0);
    assert_int_equal(look(0.1, 0.3), 1);
    assert_int_equal(watched.slowest, 2);
    for (int i = 0; i < 2; i++) assert_int_equal(look(0.1, 0.05), i == 1 ? 3 : 0); // the others
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_that_is_slow_for_long_is_named_once),
        cmocka_unit_test(a_little_slower_is_none),
        cmocka_unit_test(one_that_owns_more_shards_may_take_as_much_longer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
