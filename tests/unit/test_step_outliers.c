// Steps far above those before: which are found, against the same rule on plain lists.
#include "worker/step_outliers.h"

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

// Numbers that go up and down by 1 around 10: mean 10, deviation hardly above 1.
static double usual(int64_t step) {
    return step % 2 == 0 ? 9 : 11;
}

static void what_lies_far_above_is_found(void **state) {
    (void)state;
    StepOutliers outliers = opened(3, 8);
    for (int64_t step = 0; step < 20; step++)
        assert_false(step_outliers_find(&outliers, usual(step), usual(step), step));
    assert_false(step_outliers_find(&outliers, -1000, 12.5, 20)); // below is no harm
    step_outliers_close(&outliers);
    outliers = opened(3, 8);
    for (int64_t step = 0; step < 8; step++) step_outliers_find(&outliers, usual(step), 1, step);
    // 8 values 9, 11, …: deviation sqrt(8 / 7)
    assert_false(step_outliers_find(&outliers, 10 + 2.99 * sqrt(8.0 / 7), 1, 8));
    step_outliers_close(&outliers);
    outliers = opened(3, 8);
    for (int64_t step = 0; step < 8; step++) step_outliers_find(&outliers, usual(step), 1, step);
    assert_true(step_outliers_find(&outliers, 10 + 3.01 * sqrt(8.0 / 7), 1, 8));
    assert_int_equal(outliers.skipped, 1);
    assert_true(step_outliers_find(&outliers, 10, 1.01, 9)); // the norms have not moved at all
    step_outliers_close(&outliers);
}

static void half_a_window_is_needed(void **state) {
    (void)state;
    StepOutliers outliers = opened(1, 8);
    for (int64_t step = 0; step < 3; step++) step_outliers_find(&outliers, usual(step), 1, step);
    assert_false(step_outliers_find(&outliers, 1e6, 1, 3)); // three are too few; now there are 4
    assert_true(step_outliers_find(&outliers, 1e7, 1, 4));
    step_outliers_close(&outliers);
}

static void a_new_level_is_got_used_to(void **state) {
    (void)state;
    StepOutliers outliers = opened(2, 8);
    int64_t skipped = 0;
    for (int64_t step = 0; step < 8; step++) step_outliers_find(&outliers, usual(step), 1, step);
    for (int64_t step = 8; step < 30; step++)
        skipped += step_outliers_find(&outliers, 50 + usual(step), 1, step);
    assert_true(skipped >= 1 && skipped < 8);
    assert_int_equal(outliers.skipped, skipped);
    step_outliers_close(&outliers);
}

static void zero_skips_nothing_and_saves_nothing(void **state) {
    (void)state;
    StepOutliers outliers = opened(0, 8);
    SavedTensor saved[STEP_OUTLIERS_TENSORS];
    for (int64_t step = 0; step < 20; step++)
        assert_false(step_outliers_find(&outliers, step == 19 ? 1e30 : 1, 1, step));
    assert_int_equal(step_outliers_tensors(&outliers, saved), 0);
    step_outliers_close(&outliers);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_lies_far_above_is_found),
        cmocka_unit_test(half_a_window_is_needed),
        cmocka_unit_test(a_new_level_is_got_used_to),
        cmocka_unit_test(zero_skips_nothing_and_saves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
