// Successive halving: its rungs, and who is left.
#include "launcher/compare/search.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void rungs_end_at_the_last_step(void **state) {
    (void)state;
    static const struct {
        int64_t total, least, factor, steps[4];
        int count;
    } cases[] = {
        {900, 100, 3, {100, 300, 900}, 3},
        {900, 101, 3, {300, 900}, 2},
        {1000, 100, 3, {111, 333, 1000}, 3},
        {8, 1, 2, {1, 2, 4, 8}, 4},
        {5, 3, 2, {5}, 1},
        {1, 1, 2, {1}, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int64_t steps[HALVING_RUNGS];
        assert_int_equal(halving_rungs(cases[i].total, cases[i].least, cases[i].factor, steps),
                         cases[i].count);
        for (int rung = 0; rung < cases[i].count; rung++)
            assert_int_equal(steps[rung], cases[i].steps[rung]);
    }
}

static void a_share_of_the_trials_is_left(void **state) {
    (void)state;
    static const int left[] = {27, 9, 3, 1, 1};
    for (int rung = 0; rung < 5; rung++) assert_int_equal(halving_left(27, 3, rung), left[rung]);
    assert_int_equal(halving_left(16, 3, 1), 5);
    assert_int_equal(halving_left(2, 3, 1), 1);
}

static void the_lowest_losses_are_left(void **state) {
    (void)state;
    const double losses[] = {3, NAN, 1, 2, 1, NAN, 0};
    enum { COUNT = sizeof losses / sizeof *losses };
    static const struct {
        int keep;
        bool in[COUNT];
    } cases[] = {
        // the last one is no contestant, whatever its loss
        {6, {1, 1, 1, 1, 1, 1, 0}}, {5, {1, 1, 1, 1, 1, 0, 0}}, {4, {1, 0, 1, 1, 1, 0, 0}},
        {3, {0, 0, 1, 1, 1, 0, 0}}, {2, {0, 0, 1, 0, 1, 0, 0}}, {1, {0, 0, 1, 0, 0, 0, 0}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bool in[COUNT] = {true, true, true, true, true, true, false};
        halving_select(losses, in, COUNT, cases[i].keep);
        assert_memory_equal(in, cases[i].in, sizeof in);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rungs_end_at_the_last_step),
        cmocka_unit_test(a_share_of_the_trials_is_left),
        cmocka_unit_test(the_lowest_losses_are_left),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
