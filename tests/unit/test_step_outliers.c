// Steps far above those before: which are found, against the same rule on plain lists.
#include "worker/watch/step_outliers.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static StepOutliers opened(double z, int64_t window) {
    StepOutliers outliers;
    step_outliers_open(&outliers, &(OptimizerConfig){.skip_z = z, .skip_window = window});
    return outliers;
}

// As training does: judged by the steps before, then among them.
static bool find(StepOutliers *outliers, double loss, double norm, int64_t step) {
    char why[STEP_OUTLIER_BYTES];
    bool found = step_outliers_judge(outliers, loss, norm, why);
    if (found) assert_non_null(strstr(why, loss > 20 || step == 8 ? "loss" : "gradient norm"));
    step_outliers_enter(outliers, loss, norm, found);
    return found;
}

// Numbers that go up and down by 1 around 10: mean 10, deviation hardly above 1.
static double usual(int64_t step) {
    return step % 2 == 0 ? 9 : 11;
}

static void what_lies_far_above_is_found(void **state) {
    (void)state;
    StepOutliers outliers = opened(3, 8);
    for (int64_t step = 0; step < 20; step++)
        assert_false(find(&outliers, usual(step), usual(step), step));
    assert_false(find(&outliers, -1000, 12.5, 20)); // below is no harm
    step_outliers_close(&outliers);
    outliers = opened(3, 8);
    for (int64_t step = 0; step < 8; step++) find(&outliers, usual(step), 1, step);
    // 8 values 9, 11, …: deviation sqrt(8 / 7)
    assert_false(find(&outliers, 10 + 2.99 * sqrt(8.0 / 7), 1, 8));
    step_outliers_close(&outliers);
    outliers = opened(3, 8);
    for (int64_t step = 0; step < 8; step++) find(&outliers, usual(step), 1, step);
    assert_true(find(&outliers, 10 + 3.01 * sqrt(8.0 / 7), 1, 8));
    assert_int_equal(outliers.found, 1);
    assert_true(find(&outliers, 10, 1.01, 9)); // the norms have not moved at all
    step_outliers_close(&outliers);
}

static void half_a_window_is_needed(void **state) {
    (void)state;
    StepOutliers outliers = opened(1, 8);
    for (int64_t step = 0; step < 3; step++) find(&outliers, usual(step), 1, step);
    assert_false(find(&outliers, 1e6, 1, 3)); // three are too few; now there are 4
    assert_true(find(&outliers, 1e7, 1, 4));
    step_outliers_close(&outliers);
}

static void a_new_level_is_got_used_to(void **state) {
    (void)state;
    StepOutliers outliers = opened(2, 8);
    int64_t skipped = 0;
    for (int64_t step = 0; step < 8; step++) find(&outliers, usual(step), 1, step);
    for (int64_t step = 8; step < 30; step++) skipped += find(&outliers, 50 + usual(step), 1, step);
    assert_true(skipped >= 1 && skipped < 8);
    assert_int_equal(outliers.found, skipped);
    step_outliers_close(&outliers);
}

static void zero_skips_nothing_and_saves_nothing(void **state) {
    (void)state;
    StepOutliers outliers = opened(0, 8);
    SavedTensor saved[STEP_OUTLIERS_TENSORS];
    for (int64_t step = 0; step < 20; step++)
        assert_false(find(&outliers, step == 19 ? 1e30 : 1, 1, step));
    assert_int_equal(step_outliers_tensors(&outliers, saved), 0);
    step_outliers_close(&outliers);
}

// Files of runs that never go back stay as they were.
static void rollbacks_are_saved_only_where_there_are_any(void **state) {
    (void)state;
    SavedTensor saved[STEP_OUTLIERS_TENSORS];
    OptimizerConfig config = {.skip_z = 3, .skip_window = 8, .spike_policy = SPIKE_SKIP};
    for (int back = 0; back < 2; back++) {
        StepOutliers outliers;
        config.spike_policy = back ? SPIKE_ROLLBACK : SPIKE_SKIP;
        step_outliers_open(&outliers, &config);
        assert_int_equal(step_outliers_tensors(&outliers, saved), back ? 3 : 2);
        assert_string_equal(saved[1].name, "window/skipped");
        if (back) assert_ptr_equal(saved[2].data, outliers.rollbacks);
        step_outliers_close(&outliers);
    }
}

// A checkpoint of the schedule at least so many steps before the spike, which has done none itself.
static void a_spike_leads_back_to_a_checkpoint_of_the_schedule(void **state) {
    (void)state;
    TrainConfig config = {.checkpoint_every = 50, .rollback_steps = 100, .rollback_batches = 200};
    StepOutliers outliers = {0};
    const int64_t targets[][2] = {{1, 0},    {101, 0},   {150, 0},    {151, 50},
                                  {200, 50}, {201, 100}, {1000, 850}, {1001, 900}};
    for (size_t i = 0; i < sizeof targets / sizeof *targets; i++)
        assert_int_equal(rollback_target(&config, &outliers, targets[i][0]), targets[i][1]);
    outliers.rollbacks[ROLLBACK_STEP] = 150; // what was pruned since is not asked for
    assert_int_equal(rollback_target(&config, &outliers, 201), 150);
    assert_int_equal(rollback_target(&config, &outliers, 1000), 850);
    outliers.rollbacks[ROLLBACK_STEP] = 0;
    assert_int_equal(rollback_batches(&config, 201, 100), 200);
    assert_int_equal(rollback_batches(&config, 400, 100), 300); // the spike's batch is the last
    config.checkpoint_every = 0;
    assert_int_equal(rollback_target(&config, &outliers, 1000), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_lies_far_above_is_found),
        cmocka_unit_test(half_a_window_is_needed),
        cmocka_unit_test(a_new_level_is_got_used_to),
        cmocka_unit_test(zero_skips_nothing_and_saves_nothing),
        cmocka_unit_test(rollbacks_are_saved_only_where_there_are_any),
        cmocka_unit_test(a_spike_leads_back_to_a_checkpoint_of_the_schedule),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
