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

// Sums over all rows, and the number of steps they cover.
static void expect_all_steps(const UtilizationHistory *history, int64_t steps) {
    int64_t covered = 0, routed = 0, dropped = 0;
    double mass = 0, entropy = 0;
    for (int64_t row = 0; row < history->rows; row++) {
        covered += history->steps[row];
        routed += history->routed[(row * L + 1) * E + 2];
        dropped += history->dropped[row * L * E];
        mass += history->weight_mass[row * L * E];
        entropy += history->entropy[row * L] * (double)history->steps[row];
        if (row > 0) assert_true(history->step[row] > history->step[row - 1]);
        assert_int_equal(history->step[row], covered - 1); // steps 0, 1, …
    }
    assert_int_equal(covered, steps);
    assert_int_equal(routed, steps * (steps - 1) / 2 + 5 * steps);
    assert_int_equal(dropped, steps);
    assert_true(mass == 0.25 * (double)(steps * (steps - 1)));
    double wanted = (double)steps * (double)(steps - 1) / 2;
    assert_true(entropy > wanted * (1 - 1e-9) && entropy < wanted * (1 + 1e-9));
}

static void a_full_history_halves_what_is_long_ago(void **state) {
    (void)state;
    int64_t room = utilization_room(L, E);
    assert_int_equal(room, 4096);
    UtilizationHistory history;
    utilization_init(&history, L, E);
    const void *first = history.routed;
    for (int64_t step = 0; step < 5 * room; step++) {
        add_step(&history, step);
        utilization_close_row(&history, step);
        assert_in_range(history.rows, 1, room);
        if (step + 1 == room) assert_int_equal(history.rows, room);
        if (step == room) assert_int_equal(history.rows, room / 2 + room / 4 + 1);
    }
    assert_ptr_equal(history.routed, first); // nothing was allocated on the way
    expect_all_steps(&history, 5 * room);
    int64_t last = history.rows - 1;
    assert_int_equal(history.steps[last], 1); // the newest rows are as they were
    assert_int_equal(history.routed[last * L * E], 5 * room - 1);
    assert_true(history.steps[0] > 8);
    utilization_free(&history);
}

// As a file of an earlier program, which never merged.
static void more_rows_than_there_is_room_for_are_merged_when_the_next_comes(void **state) {
    (void)state;
    int64_t room = utilization_room(L, E), rows = 3 * room + 1;
    UtilizationHistory history;
    utilization_init(&history, L, E);
    utilization_reserve(&history, rows);
    for (int64_t row = 0; row < rows; row++) {
        history.step[row] = row;
        history.steps[row] = 1;
        for (int64_t cell = 0; cell < L * E; cell++) {
            history.routed[row * L * E + cell] = row + cell;
            history.dropped[row * L * E + cell] = 1;
            history.weight_mass[row * L * E + cell] = 0.5 * (double)row;
        }
        for (int layer = 0; layer < L; layer++)
            history.entropy[row * L + layer] = (double)(row + layer);
    }
    history.rows = rows;
    add_step(&history, rows);
    utilization_close_row(&history, rows);
    assert_in_range(history.rows, 1, room);
    expect_all_steps(&history, rows + 1);
    utilization_free(&history);
}

static void a_history_takes_no_more_than_256_mib_unless_a_row_does(void **state) {
    (void)state;
    assert_int_equal(utilization_room(0, 0), 4096);
    assert_in_range(utilization_room(64, 512), 300, 350);
    assert_in_range(utilization_bytes(64, 512), 200 << 20, 257 << 20);
    assert_int_equal(utilization_room(1024, 65536), 8);
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
        cmocka_unit_test(a_full_history_halves_what_is_long_ago),
        cmocka_unit_test(more_rows_than_there_is_room_for_are_merged_when_the_next_comes),
        cmocka_unit_test(a_history_takes_no_more_than_256_mib_unless_a_row_does),
        cmocka_unit_test(a_dense_model_has_rows_without_cells),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
