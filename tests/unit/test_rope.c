// The angles of RoPE's extensions, against values that a Python script computed in double from the
// formulas of the papers (YaRN's as in the authors' code).
#include "model/positions.h"
#include "model/rope.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

enum { PAIRS = 8 };

// The same formula in double, whose steps may come in another order.
static void expect_near(double got, double want) {
    if (fabs(got - want) > 1e-12 * want) fail_msg("%.17g, expected %.17g", got, want);
}

static void expect_frequencies(RopeConfig config, double theta, const double want[PAIRS]) {
    for (int64_t i = 0; i < PAIRS; i++)
        expect_near(rope_frequency(&config, theta, i, PAIRS), want[i]);
}

static void linear_divides_every_angle(void **state) {
    (void)state;
    expect_frequencies((RopeConfig){.scaling = ROPE_LINEAR, .factor = 4}, 10000,
                       (const double[]){0.25, 0.07905694150420949, 0.025, 0.007905694150420948,
                                        0.0025, 0.0007905694150420947, 0.00025,
                                        7.905694150420948e-05});
}

static void ntk_slows_the_slowest_pair_by_the_factor(void **state) {
    (void)state;
    expect_frequencies((RopeConfig){.scaling = ROPE_NTK, .factor = 4}, 10000,
                       (const double[]){1.0, 0.2594128170149228, 0.0672950096316178,
                                        0.017457188019584336, 0.004528618321319533,
                                        0.0011747816359188909, 0.00030475341355111886,
                                        7.905694150420948e-05});
}

static void yarn_mixes_between_the_two(void **state) {
    (void)state;
    expect_frequencies((RopeConfig){.scaling = ROPE_YARN,
                                    .truncate = true,
                                    .factor = 4,
                                    .original_context = 2048,
                                    .beta_fast = 32,
                                    .beta_slow = 1},
                       10000,
                       (const double[]){1.0, 0.31622776601683794, 0.1, 0.02569350598886808, 0.00625,
                                        0.0013834964763236657, 0.00025, 7.905694150420948e-05});
}

static void yarn_of_a_short_context_slows_all_but_the_first(void **state) {
    (void)state;
    expect_frequencies((RopeConfig){.scaling = ROPE_YARN,
                                    .truncate = true,
                                    .factor = 8,
                                    .original_context = 24,
                                    .beta_fast = 8,
                                    .beta_slow = 2},
                       10000,
                       (const double[]){1.0, 0.03952847075210474, 0.0125, 0.003952847075210474,
                                        0.00125, 0.00039528470752104737, 0.000125,
                                        3.952847075210474e-05});
}

static void a_fraction_turns_whole_pairs(void **state) {
    (void)state;
    assert_int_equal(rope_pairs(&(RopeConfig){0}, 16), 8);
    assert_int_equal(rope_pairs(&(RopeConfig){.fraction = 1}, 16), 8);
    assert_int_equal(rope_pairs(&(RopeConfig){.fraction = 0.5}, 80), 20);
    assert_int_equal(rope_pairs(&(RopeConfig){.fraction = 0.4}, 80), 16); // Phi-2
    assert_int_equal(rope_pairs(&(RopeConfig){.fraction = 0.7}, 10), 3);
    assert_int_equal(rope_pairs(&(RopeConfig){.fraction = 0.1}, 16), 0);
}

static void yarn_may_mix_between_parts_of_pairs(void **state) {
    (void)state;
    expect_frequencies((RopeConfig){.scaling = ROPE_YARN,
                                    .factor = 4,
                                    .original_context = 2048,
                                    .beta_fast = 32,
                                    .beta_slow = 1},
                       10000,
                       (const double[]){1.0, 0.31622776601683794, 0.1, 0.023870192321736323,
                                        0.005056971521129435, 0.000811290381701431, 0.00025,
                                        7.905694150420948e-05});
}

// Meta's apply_scaling, as transformers has it.
static void llama3_mixes_by_turns(void **state) {
    (void)state;
    RopeConfig config = {.scaling = ROPE_LLAMA3, .factor = 8, .original_context = 256};
    assert_true(rope_default_beta_fast(&config) == 4);
    config.beta_fast = 4;
    config.beta_slow = 1;
    expect_frequencies(config, 10000,
                       (const double[]){1.0, 0.31622776601683794, 0.1, 0.0066131063172475526,
                                        0.00125, 0.0003952847075210474, 0.000125,
                                        3.952847075210474e-05});
}

static void yarn_alone_changes_lengths(void **state) {
    (void)state;
    RopeConfig config = {.scaling = ROPE_LINEAR, .factor = 16};
    expect_near(rope_default_attention_factor(&config), 1);
    config.scaling = ROPE_YARN;
    expect_near(rope_default_attention_factor(&config), 1.277258872223978);
    expect_near(rope_length(&config), 1);
    config.attention_factor = 1.5;
    expect_near(rope_length(&config), 1.5);
}

static void slopes_of_alibi_are_geometric(void **state) {
    (void)state;
    const double eight[] = {1.0 / 2,  1.0 / 4,  1.0 / 8,   1.0 / 16,
                            1.0 / 32, 1.0 / 64, 1.0 / 128, 1.0 / 256};
    for (int h = 0; h < 8; h++) expect_near(alibi_slope(h, 8), eight[h]);
    const double six[] = {1.0 / 4, 1.0 / 16, 1.0 / 64, 1.0 / 256, 1.0 / 2, 1.0 / 8};
    for (int h = 0; h < 6; h++) expect_near(alibi_slope(h, 6), six[h]);
    expect_near(alibi_slope(0, 1), 1.0 / 256);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linear_divides_every_angle),
        cmocka_unit_test(ntk_slows_the_slowest_pair_by_the_factor),
        cmocka_unit_test(yarn_mixes_between_the_two),
        cmocka_unit_test(yarn_of_a_short_context_slows_all_but_the_first),
        cmocka_unit_test(slopes_of_alibi_are_geometric),
        cmocka_unit_test(a_fraction_turns_whole_pairs),
        cmocka_unit_test(yarn_may_mix_between_parts_of_pairs),
        cmocka_unit_test(llama3_mixes_by_turns),
        cmocka_unit_test(yarn_alone_changes_lengths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
