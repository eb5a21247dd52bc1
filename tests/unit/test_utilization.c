#include "checkpoint/utilization.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

enum { L = 2, E = 3 };

// Step s routes s + cell choices to each cell, drops one, gives mass s / 2 and has entropy s +
// layer.
static void add_step(UtilizationHistory *history, int64_t step) {
    int64_t routed[L * E], dropped[L * E];
    double weight_mass[L * E], entropy[L];
    for (int cell = 0; cell < L * E; cell++) {
        routed[cell] = step + cell;
        dropped[cell] = 1;
        weight_mass[cell] = 0.5 * (double)step;
    }
    for (int layer = 0; layer < L; layer++) entropy[layer] = (double)(step + layer);
    utilization_add(history, routed, dropped, weight_mass, entropy);
}

static void a_row_sums_counts_and_averages_entropy(void **state) {
    (void)state;
    UtilizationHistory history;
    utilization_init(&history, L, E);
    for (int64_t step = 1; step <= 3; step++) add_step(&history, step);
    utilization_close_row(&history, 3);
    assert_int_equal(history.rows, 1);
    assert_int_equal(history.step[0], 3);
    assert_int_equal(history.steps[0], 3);
    for (int cell = 0; cell < L * E; cell++) {
        assert_int_equal(history.routed[cell], 1 + 2 + 3 + 3 * cell);
        assert_int_equal(history.dropped[cell], 3);
        assert_true(history.weight_mass[cell] == 3.0);
    }
    for (int layer = 0; layer < L; layer++) assert_true(history.entropy[layer] == 2.0 + layer);
    utilization_free(&history);
}

static void closing_starts_the_next_row_from_zero(void **state) {
    (void)state;
    UtilizationHistory history;
    utilization_init(&history, L, E);
    add_step(&history, 1);
    utilization_close_row(&history, 1);
    add_step(&history, 2);
    assert_int_equal(history.open_steps, 1);
    utilization_close_row(&history, 2);
    assert_int_equal(history.open_steps, 0);
    assert_int_equal(history.routed[1 * L * E + 4], 2 + 4);
    assert_int_equal(history.dropped[1 * L * E + 4], 1);
    assert_true(history.weight_mass[1 * L * E + 4] == 1.0);
    assert_true(history.entropy[1 * L + 1] == 3.0);
    utilization_free(&history);
}

static void an_empty_row_is_not_closed(void **state) {
    (void)state;
    UtilizationHistory history;
    utilization_init(&history, L, E);
    utilization_close_row(&history, 7);
    assert_int_equal(history.rows, 0);
    utilization_free(&history);
}

static void many_rows_stay_as_they_were(void **state) {
    (void)state;
    UtilizationHistory history;
    utilization_init(&history, L, E);
    for (int64_t step = 0; step < 1000; step++) {
        add_step(&history, step);
        utilization_close_row(&history, step);
    }
    assert_int_equal(history.rows, 1000);
    for (int64_t row = 0; row < 1000; row++) {
        assert_int_equal(history.step[row], row);
        assert_int_equal(history.routed[(row * L + 1) * E + 2], row + 5);
        assert_true(history.entropy[row * L + 1] == (double)(row + 1));
    }
    utilization_free(&history);
}

static void a_dense_model_has_rows_without_cells(void **state) {
    (void)state;
    UtilizationHistory history;
    utilization_init(&history, 0, 0);
    utilization_add(&history, NULL, NULL, NULL, NULL);
    utilization_close_row(&history, 1);
    assert_int_equal(history.rows, 1);
    utilization_free(&history);
    utilization_free(&history); // legal on a zeroed struct
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_row_sums_counts_and_averages_entropy),
        cmocka_unit_test(closing_starts_the_next_row_from_zero),
        cmocka_unit_test(an_empty_row_is_not_closed),
        cmocka_unit_test(many_rows_stay_as_they_were),
        cmocka_unit_test(a_dense_model_has_rows_without_cells),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
