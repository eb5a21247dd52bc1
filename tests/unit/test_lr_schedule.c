#include "worker/optimizer/lr_schedule.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static const OptimizerConfig base = {.lr = 1.0, .min_lr = 0.1, .warmup_steps = 10};

static void assert_rate(double wanted, OptimizerConfig config, int64_t step, int64_t steps) {
    assert_float_equal(wanted, lr_at(&config, step, steps), 1e-12);
}

static void warm_up_rises_linearly_to_the_full_rate(void **state) {
    (void)state;
    for (LrSchedule schedule = LR_CONSTANT; schedule <= LR_WSD; schedule++) {
        OptimizerConfig config = base;
        config.schedule = schedule;
        config.decay_steps = 20;
        assert_rate(0.1, config, 0, 101);
        assert_rate(0.5, config, 4, 101);
        assert_rate(1.0, config, 9, 101);
        assert_rate(1.0, config, 10, 101);
    }
}

static void constant_stays_at_the_full_rate(void **state) {
    (void)state;
    OptimizerConfig config = base;
    config.schedule = LR_CONSTANT;
    assert_rate(1.0, config, 50, 101);
    assert_rate(1.0, config, 100, 101);
}

static void linear_falls_evenly_to_min_lr_at_the_last_step(void **state) {
    (void)state;
    OptimizerConfig config = base;
    config.schedule = LR_LINEAR;
    assert_rate(0.55, config, 55, 101); // half way from 10 to 100
    assert_rate(0.1, config, 100, 101);
    assert_rate(0.1, config, 1000, 101); // a run that was prolonged
}

static void cosine_falls_slowly_fast_slowly(void **state) {
    (void)state;
    OptimizerConfig config = base;
    config.schedule = LR_COSINE;
    assert_rate(0.1 + 0.9 * 0.75, config, 40, 101); // a third: (1 + cos 60°) / 2
    assert_rate(0.55, config, 55, 101);
    assert_rate(0.1 + 0.9 * 0.25, config, 70, 101);
    assert_rate(0.1, config, 100, 101);
}

static void wsd_is_stable_then_falls_over_its_last_steps(void **state) {
    (void)state;
    OptimizerConfig config = base;
    config.schedule = LR_WSD;
    config.decay_steps = 20;
    assert_rate(1.0, config, 80, 101);
    assert_rate(1.0 - 0.9 / 20, config, 81, 101);
    assert_rate(0.55, config, 90, 101);
    assert_rate(0.1, config, 100, 101);
    config.decay_steps = 0;
    assert_rate(1.0, config, 100, 101);
}

static void a_run_of_one_step_trains_at_the_full_rate(void **state) {
    (void)state;
    for (LrSchedule schedule = LR_CONSTANT; schedule <= LR_WSD; schedule++) {
        OptimizerConfig config = {.lr = 1.0, .schedule = schedule};
        assert_rate(1.0, config, 0, 1);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(warm_up_rises_linearly_to_the_full_rate),
        cmocka_unit_test(constant_stays_at_the_full_rate),
        cmocka_unit_test(linear_falls_evenly_to_min_lr_at_the_last_step),
        cmocka_unit_test(cosine_falls_slowly_fast_slowly),
        cmocka_unit_test(wsd_is_stable_then_falls_over_its_last_steps),
        cmocka_unit_test(a_run_of_one_step_trains_at_the_full_rate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
