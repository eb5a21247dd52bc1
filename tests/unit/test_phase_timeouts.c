// How long a phase may be quiet, from how long it was.
#include "worker/watch/phase_timeouts.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static const char forward[] = "forward", update[] = "update", saving[] = "saving";

static void expect(const PhaseTimeouts *timeouts, const char *phase, int repeats, double wanted,
                   bool wanted_learned) {
    bool learned;
    assert_true(phase_timeouts_of(timeouts, phase, repeats, &learned) == wanted);
    assert_int_equal(learned, wanted_learned);
}

static void what_was_hardly_seen_has_the_upper_bound(void **state) {
    (void)state;
    PhaseTimeouts timeouts = {.least = 60, .most = 600};
    phase_timeouts_learn(&timeouts, forward, 1);
    for (int repeats = 0; repeats < 4; repeats++) expect(&timeouts, forward, repeats, 600, false);
    expect(&timeouts, forward, 4, 60, true);
    expect(&timeouts, saving, 0, 600, false); // one that does not come in each step
    expect(&timeouts, update, 4, 60, true);   // too short for any look so far
}

static void five_times_the_longest_within_bounds(void **state) {
    (void)state;
    PhaseTimeouts timeouts = {.least = 60, .most = 600};
    for (int i = 0; i < 9; i++) phase_timeouts_learn(&timeouts, forward, i == 5 ? 30 : 1);
    phase_timeouts_learn(&timeouts, update, 1);
    expect(&timeouts, forward, 9, 150, true);
    expect(&timeouts, update, 9, 60, true); // of its own
    phase_timeouts_learn(&timeouts, forward, 200);
    expect(&timeouts, forward, 10, 600, false);
}

static void more_phases_than_there_is_room_for_do_no_harm(void **state) {
    (void)state;
    static const char *const many[] = {"a", "b", "c", "d", "e", "f", "g", "h", "i"};
    PhaseTimeouts timeouts = {.least = 60, .most = 600};
    for (int i = 0; i < 9; i++) phase_timeouts_learn(&timeouts, many[i], 20);
    expect(&timeouts, many[0], 9, 100, true);
    expect(&timeouts, many[8], 9, 60, true);
}

static void an_upper_bound_below_the_floor_is_the_bound(void **state) {
    (void)state;
    PhaseTimeouts timeouts = {.least = 60, .most = 3}, never = {.least = 60};
    phase_timeouts_learn(&timeouts, forward, 1);
    expect(&timeouts, forward, 9, 3, false);
    expect(&never, forward, 9, 0, false);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_hardly_seen_has_the_upper_bound),
        cmocka_unit_test(five_times_the_longest_within_bounds),
        cmocka_unit_test(more_phases_than_there_is_room_for_do_no_harm),
        cmocka_unit_test(an_upper_bound_below_the_floor_is_the_bound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
