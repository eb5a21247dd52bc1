// Rows of metrics.jsonl: JSON whatever the numbers are, with the figures that layers tell.
#include "worker/metrics.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

static char folder[64], path[96];
static RowFile *rows;

static int open_rows(void **state) {
    (void)state;
    Error err = {0};
    snprintf(folder, sizeof folder, "/tmp/test_metrics.XXXXXX");
    if (!mkdtemp(folder)) return -1;
    snprintf(path, sizeof path, "%s/metrics.jsonl", folder);
    return metrics_open(&rows, folder, 0, &err) ? 0 : -1;
}

static int close_rows(void **state) {
    (void)state;
    row_file_close(rows);
    unlink(path);
    return rmdir(folder);
}

// The last line of the file, parsed strictly. Free it.
static json_t *last_row(void) {
    char line[8192] = "";
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    while (fgets(line, sizeof line, file)) {
    }
    fclose(file);
    json_error_t error;
    json_t *row = json_loads(line, JSON_REJECT_DUPLICATES, &error);
    if (!row) fail_msg("%s: %s", error.text, line);
    return row;
}

static double real(const json_t *row, const char *key) {
    const json_t *value = json_object_get(row, key);
    if (!json_is_number(value)) fail_msg("%s is no number", key);
    return json_number_value(value);
}

static const Summary balance = {
    .field = "balance_loss", .digits = 9, .line = {.before = " | balance ", .decimals = 3}};
static const Summary drops = {.field = "drop_rate",
                              .digits = 6,
                              .line = {.before = " drop ", .decimals = 1, .percent = true}};
static const Summary quiet = {.field = "router_entropy_nats", .digits = 6};

static StepMetrics sample(void) {
    StepMetrics row = {.step = 7,
                       .loss = 1.0 / 3,
                       .gradient_norm = 2.5,
                       .lr = 0.001,
                       .step_seconds = 0.02,
                       .tokens_per_second = 1000,
                       .gflops = 3,
                       .gemm_share = 0.25,
                       .tokens = 123456789012345,
                       .eta_seconds = 3725,
                       .figures.count = 3};
    row.figures.of[0].summary = &balance, row.figures.of[0].value = 1.25;
    row.figures.of[1].summary = &drops, row.figures.of[1].value = 0.125;
    row.figures.of[2].summary = &quiet, row.figures.of[2].value = 0.5;
    return row;
}

static void a_row_has_what_happened_to_the_last_bit(void **state) {
    (void)state;
    StepMetrics metrics = sample();
    metrics_write_step(rows, &metrics);
    json_t *row = last_row();
    assert_true(real(row, "loss") == 1.0 / 3);
    assert_int_equal(json_integer_value(json_object_get(row, "tokens")), 123456789012345);
    assert_true(real(row, "balance_loss") == 1.25 && real(row, "drop_rate") == 0.125);
    assert_true(real(row, "router_entropy_nats") == 0.5 && real(row, "step_ms") == 20);
    json_decref(row);
    metrics_write_evaluation(rows, 7, "", 2.0 / 3, -1, &metrics.figures, 1500, 0.5);
    row = last_row();
    assert_true(real(row, "val_loss") == 2.0 / 3);
    assert_true(real(row, "val_tokens") == 1500 && real(row, "val_seconds") == 0.5);
    assert_true(json_is_null(json_object_get(row, "val_bits_per_byte")));
    assert_true(real(row, "drop_rate") == 0.125);
    json_decref(row);
    // A small model evaluates in less than a millisecond, and tokens are divided by this.
    metrics_write_evaluation(rows, 8, "", 2.0 / 3, -1, &metrics.figures, 64, 0.00025);
    row = last_row();
    assert_true(real(row, "val_seconds") == 0.00025);
    json_decref(row);
}

static void a_mix_has_the_loss_and_load_of_each_source_by_its_name(void **state) {
    (void)state;
    StepMetrics metrics = sample();
    metrics.sources = 3;
    metrics.source_names[0] = "books";
    metrics.source_names[1] = "a \"quoted\" \\ name \xC3\xB6";
    metrics.source_names[2] = "rare";
    metrics.source_losses[0] = 1.0 / 3;
    metrics.source_losses[1] = 2.5;
    metrics.source_losses[2] = NAN; // no window of it
    metrics_write_step(rows, &metrics);
    json_t *row = last_row(), *losses = json_object_get(row, "source_loss");
    assert_true(real(losses, "books") == 1.0 / 3);
    assert_true(real(losses, metrics.source_names[1]) == 2.5);
    assert_true(json_is_null(json_object_get(losses, "rare")));
    assert_null(json_object_get(row, "source_load_imbalance")); // no layer has experts
    json_decref(row);
    metrics.source_loads = true;
    metrics.source_imbalances[1] = 1.75;
    metrics.source_distances[2] = NAN;
    metrics_write_step(rows, &metrics);
    row = last_row();
    losses = json_object_get(row, "source_load_imbalance");
    assert_true(real(losses, metrics.source_names[1]) == 1.75);
    losses = json_object_get(row, "source_load_distance");
    assert_true(json_is_null(json_object_get(losses, "rare")));
    json_decref(row);
    metrics_write_evaluation(rows, 7, metrics.source_names[1], 1, -1, &metrics.figures, 1500, 0.5);
    row = last_row();
    assert_string_equal(metrics.source_names[1],
                        json_string_value(json_object_get(row, "validation")));
    json_decref(row);
}

static void what_is_no_number_is_null(void **state) {
    (void)state;
    static const double bad[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 3; i++) {
        StepMetrics metrics = sample();
        metrics.loss = metrics.gradient_norm = metrics.figures.of[1].value = bad[i];
        metrics_write_step(rows, &metrics);
        json_t *row = last_row();
        assert_true(json_is_null(json_object_get(row, "loss")));
        assert_true(json_is_null(json_object_get(row, "gradient_norm")));
        assert_true(json_is_null(json_object_get(row, "drop_rate")));
        assert_true(real(row, "balance_loss") == 1.25);
        json_decref(row);
        metrics_write_evaluation(rows, 7, "", bad[i], bad[i] < 0 ? 1 : bad[i], &metrics.figures,
                                 1500, 0.5);
        json_decref(last_row());
    }
}

static void as_many_figures_as_there_may_be_are_all_told(void **state) {
    (void)state;
    static Summary summaries[STATISTICS_SUMMARIES_MAX];
    static char names[STATISTICS_SUMMARIES_MAX][48];
    StepMetrics metrics = sample();
    metrics.figures.count = STATISTICS_SUMMARIES_MAX;
    metrics.loss = metrics.gradient_norm = metrics.lr = -DBL_MIN;
    metrics.tokens_per_second = metrics.gflops = 1e30;
    for (int i = 0; i < STATISTICS_SUMMARIES_MAX; i++) {
        snprintf(names[i], sizeof names[i], "a_long_name_of_a_figure_of_layer_%d", i);
        summaries[i] = (Summary){.field = names[i], .digits = 17};
        metrics.figures.of[i].summary = &summaries[i], metrics.figures.of[i].value = -DBL_MIN / 3;
    }
    metrics_write_step(rows, &metrics);
    json_t *row = last_row();
    for (int i = 0; i < STATISTICS_SUMMARIES_MAX; i++)
        assert_true(real(row, names[i]) == -DBL_MIN / 3);
    json_decref(row);
}

static void the_line_for_people_has_units_and_what_is_left(void **state) {
    (void)state;
    StepMetrics metrics = sample();
    char line[512];
    metrics_format_step(&metrics, 100, line, sizeof line);
    assert_string_equal(
        line, "step 7/100 | loss 0.3333 | balance 1.250 drop 12.5% | norm 2.500 | lr 1.00e-03 | "
              "20.0 ms 1000 tok/s | 3.0 GFLOP/s (25% of GEMM) | eta 1h02m");
    metrics.skipped_steps = 2;
    metrics.eta_seconds = 61;
    metrics.figures.count = 0;
    metrics_format_step(&metrics, 100, line, sizeof line);
    assert_non_null(strstr(line, "loss 0.3333 | norm"));
    assert_non_null(strstr(line, "eta 1m01s | 2 steps skipped"));
}

int main(void) {
#define TEST(function) cmocka_unit_test_setup_teardown(function, open_rows, close_rows)
    const struct CMUnitTest tests[] = {
        TEST(a_row_has_what_happened_to_the_last_bit),
        TEST(a_mix_has_the_loss_and_load_of_each_source_by_its_name),
        TEST(what_is_no_number_is_null),
        TEST(as_many_figures_as_there_may_be_are_all_told),
        TEST(the_line_for_people_has_units_and_what_is_left),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
