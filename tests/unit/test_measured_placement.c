// What a load history tells of experts that are to be placed.
#include "worker/measured_placement.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/history_sample.h"

enum { LAYERS = 3, E = 4 };
static const int64_t experts[LAYERS] = {E, 0, 6}; // the second layer is dense

// `steps` steps in a row of their own, each of `rows` rows for expert 0, one more for each further
// one, of the last layer ten times as many.
static void add_row(const HistorySample *sample, UtilizationHistory *history, int64_t step,
                    int64_t steps, int64_t rows, bool closed) {
    for (int64_t e = 0; e < E; e++) step_counts(sample, "routed", 0)[e] = rows + e;
    for (int64_t e = 0; e < 6; e++) step_counts(sample, "routed", 2)[e] = 10 * (rows + e);
    for (int64_t s = 0; s < steps; s++) history_sample_add(sample, history);
    if (closed) utilization_close_row(history, step);
}

static void rows_are_those_of_the_last_steps(void **state) {
    (void)state;
    HistorySample sample = history_sample(LAYERS, experts);
    UtilizationHistory history;
    Placement placement = {0};
    const ExpertPlaces *first = placement_table(&placement, 0, ROUTER_OF_FEED_FORWARD, E);
    const ExpertPlaces *last = placement_table(&placement, 2, ROUTER_OF_FEED_FORWARD, 6);
    int64_t rows[6], steps = 0;
    history_sample_open(&sample, &history);
    assert_false(measured_rows(&history, first, rows, &steps)); // no step yet
    add_row(&sample, &history, 200, 200, 1000, true);           // too long ago
    add_row(&sample, &history, 290, 90, 3, true);
    assert_true(measured_rows(&history, first, rows, &steps));
    assert_int_equal(steps, 290); // whole rows
    assert_int_equal(rows[1], 200 * 1001 + 90 * 4);
    add_row(&sample, &history, 0, 10, 7, false); // the open row
    assert_true(measured_rows(&history, first, rows, &steps));
    assert_int_equal(steps, 100);
    for (int64_t e = 0; e < E; e++) assert_int_equal(rows[e], 90 * (3 + e) + 10 * (7 + e));
    assert_true(measured_rows(&history, last, rows, &steps));
    assert_int_equal(rows[5], 10 * (90 * 8 + 10 * 12));
    placement_free(&placement);
    utilization_free(&history);
    history_sample_free(&sample);
}

// Of another number, of a layer without any, and of another router.
static void other_experts_have_no_rows(void **state) {
    (void)state;
    HistorySample sample = history_sample(LAYERS, experts);
    UtilizationHistory history;
    Placement placement = {0};
    int64_t rows[6], steps = 0;
    history_sample_open(&sample, &history);
    add_row(&sample, &history, 5, 5, 1, true);
    const ExpertPlaces *others[] = {
        placement_table(&placement, 0, ROUTER_OF_FEED_FORWARD, 6),
        placement_table(&placement, 1, ROUTER_OF_FEED_FORWARD, E),
        placement_table(&placement, 2, ROUTER_OF_MIXER, 6),
    };
    for (int i = 0; i < 3; i++) assert_false(measured_rows(&history, others[i], rows, &steps));
    placement_free(&placement);
    utilization_free(&history);
    history_sample_free(&sample);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_those_of_the_last_steps),
        cmocka_unit_test(other_experts_have_no_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
