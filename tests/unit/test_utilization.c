#include "checkpoint/utilization.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/history_sample.h"

enum { L = 2, E = 3 };
static const int64_t even[L] = {E, E};

// Step s routes s + cell choices to each cell, drops one, gives mass s / 2 and has entropy s +
// layer.
static void add_step(const HistorySample *sample, UtilizationHistory *history, int64_t step) {
    for (int64_t layer = 0; layer < L; layer++) {
        for (int64_t e = 0; e < E; e++) {
            step_counts(sample, "routed", layer)[e] = step + layer * E + e;
            step_counts(sample, "dropped", layer)[e] = 1;
            step_sums(sample, "weight_mass", layer)[e] = 0.5 * (double)step;
        }
        *step_sums(sample, "entropy", layer) = (double)(step + layer);
    }
    history_sample_add(sample, history);
}

static int64_t count_at(const UtilizationHistory *history, const char *name, int64_t row,
                        int64_t layer, int64_t e) {
    return utilization_counts(utilization_find(history, name), row, layer)[e];
}
static double sum_at(const UtilizationHistory *history, const char *name, int64_t row,
                     int64_t layer, int64_t e) {
    return utilization_sums(utilization_find(history, name), row, layer)[e];
}

static void a_row_sums_counts_and_averages_entropy(void **state) {
    (void)state;
    HistorySample sample = history_sample(L, even);
    UtilizationHistory history;
    history_sample_open(&sample, &history);
    for (int64_t step = 1; step <= 3; step++) add_step(&sample, &history, step);
    utilization_close_row(&history, 3);
    assert_int_equal(history.rows, 1);
    assert_int_equal(history.step[0], 3);
    assert_int_equal(history.steps[0], 3);
    for (int64_t layer = 0; layer < L; layer++) {
        for (int64_t e = 0; e < E; e++) {
            assert_int_equal(count_at(&history, "routed", 0, layer, e),
                             1 + 2 + 3 + 3 * (layer * E + e));
            assert_int_equal(count_at(&history, "dropped", 0, layer, e), 3);
            assert_true(sum_at(&history, "weight_mass", 0, layer, e) == 3.0);
        }
        assert_true(sum_at(&history, "entropy", 0, layer, 0) == 2.0 + (double)layer);
    }
    utilization_free(&history);
    history_sample_free(&sample);
}

static void closing_starts_the_next_row_from_zero(void **state) {
    (void)state;
    HistorySample sample = history_sample(L, even);
    UtilizationHistory history;
    history_sample_open(&sample, &history);
    add_step(&sample, &history, 1);
    utilization_close_row(&history, 1);
    add_step(&sample, &history, 2);
    assert_int_equal(history.open_steps, 1);
    utilization_close_row(&history, 2);
    assert_int_equal(history.open_steps, 0);
    assert_int_equal(count_at(&history, "routed", 1, 1, 1), 2 + 4);
    assert_int_equal(count_at(&history, "dropped", 1, 1, 1), 1);
    assert_true(sum_at(&history, "weight_mass", 1, 1, 1) == 1.0);
    assert_true(sum_at(&history, "entropy", 1, 1, 0) == 3.0);
    utilization_free(&history);
    history_sample_free(&sample);
}

static void an_empty_row_is_not_closed(void **state) {
    (void)state;
    HistorySample sample = history_sample(L, even);
    UtilizationHistory history;
    history_sample_open(&sample, &history);
    utilization_close_row(&history, 7);
    assert_int_equal(history.rows, 0);
    utilization_free(&history);
    history_sample_free(&sample);
}

static void many_rows_stay_as_they_were(void **state) {
    (void)state;
    HistorySample sample = history_sample(L, even);
    UtilizationHistory history;
    history_sample_open(&sample, &history);
    for (int64_t step = 0; step < 1000; step++) {
        add_step(&sample, &history, step);
        utilization_close_row(&history, step);
    }
    assert_int_equal(history.rows, 1000);
    for (int64_t row = 0; row < 1000; row++) {
        assert_int_equal(history.step[row], row);
        assert_int_equal(count_at(&history, "routed", row, 1, 2), row + 5);
        assert_true(sum_at(&history, "entropy", row, 1, 0) == (double)(row + 1));
    }
    utilization_free(&history);
    history_sample_free(&sample);
}

// Sums over all rows, and the number of steps they cover.
static void expect_all_steps(const UtilizationHistory *history, int64_t steps) {
    int64_t covered = 0, routed = 0, dropped = 0;
    double mass = 0, entropy = 0;
    for (int64_t row = 0; row < history->rows; row++) {
        covered += history->steps[row];
        routed += count_at(history, "routed", row, 1, 2);
        dropped += count_at(history, "dropped", row, 0, 0);
        mass += sum_at(history, "weight_mass", row, 0, 0);
        entropy += sum_at(history, "entropy", row, 0, 0) * (double)history->steps[row];
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
    HistorySample sample = history_sample(L, even);
    UtilizationHistory history;
    history_sample_open(&sample, &history);
    int64_t room = utilization_room(&history);
    assert_int_equal(room, 4096);
    const void *first = utilization_find(&history, "routed")->rows;
    for (int64_t step = 0; step < 5 * room; step++) {
        add_step(&sample, &history, step);
        utilization_close_row(&history, step);
        assert_in_range(history.rows, 1, room);
        if (step + 1 == room) assert_int_equal(history.rows, room);
        if (step == room) assert_int_equal(history.rows, room / 2 + room / 4 + 1);
    }
    // Nothing was allocated on the way.
    assert_ptr_equal(utilization_find(&history, "routed")->rows, first);
    expect_all_steps(&history, 5 * room);
    int64_t last = history.rows - 1;
    assert_int_equal(history.steps[last], 1); // the newest rows are as they were
    assert_int_equal(count_at(&history, "routed", last, 0, 0), 5 * room - 1);
    assert_true(history.steps[0] > 8);
    utilization_free(&history);
    history_sample_free(&sample);
}

// As a file of an earlier program, which never merged.
static void more_rows_than_there_is_room_for_are_merged_when_the_next_comes(void **state) {
    (void)state;
    HistorySample sample = history_sample(L, even);
    UtilizationHistory history, one;
    history_sample_open(&sample, &history);
    int64_t room = utilization_room(&history), rows = 3 * room + 1;
    utilization_reserve(&history, rows);
    for (int64_t row = 0; row < rows; row++) {
        history_sample_open(&sample, &one);
        add_step(&sample, &one, row);
        utilization_close_row(&one, row);
        history.step[row] = one.step[0];
        history.steps[row] = 1;
        for (int i = 0; i < one.series_count; i++) {
            size_t bytes = (size_t)(one.series[i].layers * one.series[i].width) * 8;
            memcpy((char *)history.series[i].rows + (size_t)row * bytes, one.series[i].rows, bytes);
        }
        utilization_free(&one);
    }
    history.rows = rows;
    add_step(&sample, &history, rows);
    utilization_close_row(&history, rows);
    assert_in_range(history.rows, 1, room);
    expect_all_steps(&history, rows + 1);
    utilization_free(&history);
    history_sample_free(&sample);
}

static int64_t room_of(int64_t layers, int64_t experts, size_t *bytes) {
    int64_t *of_layers = calloc((size_t)layers + 1, sizeof *of_layers);
    for (int64_t layer = 0; layer < layers; layer++) of_layers[layer] = experts;
    HistorySample sample = history_sample(layers, of_layers);
    UtilizationHistory history;
    utilization_shape(&history, sample.stats.columns, sample.stats.column_count);
    int64_t room = utilization_room(&history);
    *bytes = utilization_bytes(&history);
    utilization_free(&history);
    history_sample_free(&sample);
    free(of_layers);
    return room;
}

static void a_history_takes_no_more_than_256_mib_unless_a_row_does(void **state) {
    (void)state;
    size_t bytes;
    assert_int_equal(room_of(0, 0, &bytes), 4096);
    assert_in_range(room_of(64, 512, &bytes), 300, 350);
    assert_in_range(bytes, 200 << 20, 257 << 20);
    assert_int_equal(room_of(64, 65536, &bytes), 8);
}

static void a_model_that_reports_nothing_has_rows_without_cells(void **state) {
    (void)state;
    HistorySample sample = history_sample(0, NULL);
    UtilizationHistory history;
    history_sample_open(&sample, &history);
    assert_int_equal(history.series_count, 0); // the loss is of no layer
    history_sample_add(&sample, &history);
    utilization_close_row(&history, 1);
    assert_int_equal(history.rows, 1);
    utilization_free(&history);
    utilization_free(&history); // legal on a zeroed struct
    history_sample_free(&sample);
}

static void layers_of_different_sizes_lie_in_one_table(void **state) {
    (void)state;
    const int64_t experts[] = {0, 4, 0, 2};
    HistorySample sample = history_sample(4, experts);
    UtilizationHistory history;
    history_sample_open(&sample, &history);
    const UtilizationSeries *routed = utilization_find(&history, "routed");
    assert_int_equal(routed->layers, 2);
    assert_int_equal(routed->width, 4);
    assert_int_equal(routed->of[0].number, 1);
    assert_int_equal(routed->of[0].values, 4);
    assert_int_equal(routed->of[1].number, 3);
    assert_int_equal(routed->of[1].values, 2);
    for (int64_t step = 1; step <= 2; step++) {
        for (int64_t e = 0; e < 4; e++) step_counts(&sample, "routed", 1)[e] = 100 * step + e;
        for (int64_t e = 0; e < 2; e++) step_counts(&sample, "routed", 3)[e] = 10 * step + e;
        history_sample_add(&sample, &history);
    }
    utilization_close_row(&history, 2);
    const int64_t want[2][4] = {{300, 302, 304, 306}, {30, 32, 0, 0}};
    assert_memory_equal(routed->rows, want, sizeof want);
    utilization_free(&history);
    history_sample_free(&sample);
}

// A history as a file of earlier programs gives it: its layers are counted, not named.
static void a_file_of_other_columns_is_continued(void **state) {
    (void)state;
    const int64_t experts[] = {0, E, 0, E};
    HistorySample old = history_sample(L, even), here = history_sample(4, experts);
    statistics_scalar(&here.stats, "temperature", 3); // that the file does not know
    UtilizationHistory from, history;
    history_sample_open(&old, &from);
    add_step(&old, &from, 1);
    utilization_close_row(&from, 1);
    add_step(&old, &from, 2);
    history_sample_open(&here, &history);
    Error err = {0};
    assert_true(utilization_continue(&history, &from, &err));
    assert_int_equal(history.rows, 1);
    assert_int_equal(history.open_steps, 1);
    assert_int_equal(count_at(&history, "routed", 0, 1, 2), 1 + 5);
    assert_int_equal(utilization_find(&history, "routed")->of[1].number, 3);
    assert_true(isnan(sum_at(&history, "temperature", 0, 0, 0)));
    utilization_close_row(&history, 2);
    assert_int_equal(count_at(&history, "routed", 1, 1, 2), 2 + 5);
    assert_true(isnan(sum_at(&history, "temperature", 1, 0, 0))); // of a step that it missed

    const int64_t more[] = {0, E, 0, E + 1};
    HistorySample other = history_sample(4, more);
    UtilizationHistory refused;
    history_sample_open(&other, &refused);
    assert_false(utilization_continue(&refused, &from, &err));
    assert_int_equal(err.exit_code, EXIT_CHECKPOINT);
    assert_int_equal(refused.rows, 0);
    utilization_free(&refused);
    utilization_free(&history);
    utilization_free(&from);
    history_sample_free(&other);
    history_sample_free(&here);
    history_sample_free(&old);
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
        cmocka_unit_test(a_model_that_reports_nothing_has_rows_without_cells),
        cmocka_unit_test(layers_of_different_sizes_lie_in_one_table),
        cmocka_unit_test(a_file_of_other_columns_is_continued),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
