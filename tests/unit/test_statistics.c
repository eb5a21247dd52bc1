#include "model/statistics.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static jmp_buf after_death;
static int death_code;

static void survive(int exit_code) {
    death_code = exit_code;
    longjmp(after_death, 1);
}

#define assert_dies(statement)                                                                     \
    do {                                                                                           \
        death_code = 0;                                                                            \
        die_hook = survive;                                                                        \
        if (setjmp(after_death) == 0) {                                                            \
            statement;                                                                             \
        }                                                                                          \
        assert_int_equal(death_code, EXIT_BUG);                                                    \
    } while (0)

// Two layers of different sizes and columns.
static void ask(Statistics *stats, int places[6]) {
    statistics_begin(stats);
    places[0] = statistics_scalar(stats, "balance", 1);
    places[1] = statistics_vector(stats, "mass", 1, 4);
    places[2] = statistics_counts(stats, "routed", 1, 4);
    places[3] = statistics_counts(stats, "routed", 3, 7);
    places[4] = statistics_scalar(stats, "balance", 3);
    places[5] = statistics_scalar(stats, "temperature", 3);
}

static void columns_follow_each_other_the_same_in_every_layout(void **state) {
    (void)state;
    Statistics stats = {0};
    const int want[6] = {1, 2, 0, 4, 6, 7}; // the loss has place 0 among the sums
    for (int layout = 0; layout < 3; layout++) {
        int places[6];
        ask(&stats, places);
        assert_memory_equal(places, want, sizeof want);
        assert_int_equal(stats.width, 8);
        assert_int_equal(stats.count_width, 11);
        assert_int_equal(stats.column_count, 7);
    }
    const StatisticsColumn *column = statistics_find(&stats, "routed", 3);
    assert_int_equal(column->first, 4);
    assert_int_equal(column->count, 7);
    assert_null(statistics_find(&stats, "routed", 2));
    assert_null(statistics_find(&stats, "mass", 3));
    statistics_free(&stats);
}

static void a_layout_that_asks_for_something_else_is_a_bug(void **state) {
    (void)state;
    Statistics stats = {0};
    int places[6];
    ask(&stats, places);
    statistics_begin(&stats);
    assert_dies(statistics_scalar(&stats, "balance", 2));
    assert_dies(statistics_vector(&stats, "balance", 1, 1));
    assert_dies(statistics_scalar(&stats, "loss", STATISTICS_MODEL)); // there is one
    statistics_free(&stats);
}

static void means_are_over_the_layers_that_have_the_column(void **state) {
    (void)state;
    Statistics stats = {0};
    int places[6];
    ask(&stats, places);
    double sums[8] = {3.5, 1, 0, 0, 0, 0, 2, 10};
    int64_t counts[11] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
    stats.host_sums = tensor_2d(sums, F64, 1, 8);
    stats.host_counts = tensor_1d(counts, I64, 11);
    assert_true(statistics_loss(&stats) == 3.5);
    assert_true(statistics_value(&stats, "balance", 3) == 2);
    assert_int_equal(statistics_count_values(&stats, "routed", 3)[6], 10);
    assert_true(statistics_mean_over_layers(&stats, "balance") == 1.5);
    assert_true(statistics_mean_over_layers(&stats, "temperature") == 10);
    assert_dies(statistics_value(&stats, "temperature", 1));
    assert_dies(statistics_count_values(&stats, "balance", 1));
    statistics_free(&stats);
}

static void a_figure_is_told_once(void **state) {
    (void)state;
    static const Summary first = {.field = "first"}, second = {.field = "second"};
    Statistics stats = {0};
    for (int layout = 0; layout < 2; layout++) {
        statistics_begin(&stats);
        for (int layer = 0; layer < 3; layer++) {
            statistics_summarize(&stats, &first);
            statistics_summarize(&stats, &second);
        }
        assert_int_equal(stats.summary_count, 2);
        assert_ptr_equal(stats.summaries[1], &second);
    }
    statistics_free(&stats);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(columns_follow_each_other_the_same_in_every_layout),
        cmocka_unit_test(a_layout_that_asks_for_something_else_is_a_bug),
        cmocka_unit_test(means_are_over_the_layers_that_have_the_column),
        cmocka_unit_test(a_figure_is_told_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
