// Initial values of linear weights and what muP makes of them, against the formulas.
#include "model/initialization.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static const Param HIDDEN = {
    .rank = 3, .shape = {4, 24, 10}, .fused = {12, 12}, .group = GROUP_HIDDEN, .init_std = 0.02};

static Param initialized(ModelConfig config, Param weight) {
    config.init_std = 0.02;
    config.d_model = 64;
    init_linear(&config, &weight);
    return weight;
}

static void expect_std(Param weight, double wanted) {
    if (fabs(weight.init_std - wanted) > 1e-12)
        fail_msg("a std of %.12g, wanted %.12g", weight.init_std, wanted);
}

static void each_kind_has_its_standard_deviation(void **state) {
    (void)state;
    expect_std(initialized((ModelConfig){.init = WEIGHTS_NORMAL}, HIDDEN), 0.02);
    expect_std(initialized((ModelConfig){.init = WEIGHTS_KAIMING}, HIDDEN), sqrt(2.0 / 10));
    expect_std(initialized((ModelConfig){.init = WEIGHTS_XAVIER}, HIDDEN), sqrt(2.0 / (10 + 12)));
}

static void a_layer_that_begins_small_does_so_by_every_kind(void **state) {
    (void)state;
    Param small = HIDDEN;
    ModelConfig config = {.layers = 8, .init_std = 0.02};
    small.init_std = model_residual_std(&config);
    expect_std(initialized((ModelConfig){.init = WEIGHTS_NORMAL}, small), 0.02 / 4);
    expect_std(initialized((ModelConfig){.init = WEIGHTS_KAIMING}, small), sqrt(2.0 / 10) / 4);
    config.init_depth = DEPTH_EQUAL;
    assert_true(model_residual_std(&config) == 0.02);
}

static void mup_follows_the_width(void **state) {
    (void)state;
    ModelConfig config = {.mup_base_width = 16}; // a quarter of the width
    Param weight = initialized(config, HIDDEN);
    expect_std(weight, 0.02 / 2);
    assert_true(weight.lr_scale == 0.25f);
    Param router = {.rank = 2, .shape = {8, 64}, .init_std = 0.02, .readout = true};
    weight = initialized(config, router);
    expect_std(weight, 0.02 / 4);
    assert_true(weight.lr_scale == 0.25f);
    config.init = WEIGHTS_KAIMING; // which falls with the width by itself
    expect_std(initialized(config, HIDDEN), sqrt(2.0 / 10));
    expect_std(initialized(config, router), sqrt(2.0 / 64) / 2);
    Param head = {.rank = 2, .shape = {100, 64}, .init_std = 0.02};
    config.init = WEIGHTS_NORMAL;
    weight = initialized(config, head);
    expect_std(weight, 0.02);
    assert_true(weight.lr_scale == 0);
    config.d_model = 64;
    config.logit_scale = 2;
    assert_true(logit_factor(&config) == 0.5);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_kind_has_its_standard_deviation),
        cmocka_unit_test(a_layer_that_begins_small_does_so_by_every_kind),
        cmocka_unit_test(mup_follows_the_width),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
