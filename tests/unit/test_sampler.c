#include "worker/generation/sampler.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

enum { V = 6, DRAWS = 200000 };

// Probabilities proportional to 1, 2, 4, 8, 16, 1; softmax(logits) = weight / 32.
static const double weights[V] = {1, 2, 4, 8, 16, 1};

static int32_t draw(const float *logits, double temperature, int64_t top_k, double top_p,
                    int64_t position) {
    int32_t order[V];
    double probabilities[V];
    Sampling rule = {.temperature = temperature, .top_k = top_k, .top_p = top_p, .seed = 7};
    return sample_token(logits, V, rule, position, order, probabilities);
}

// Draws many tokens and compares their frequencies with `wanted` (unnormalised). The bound is 5
// standard deviations of a binomial count: it fails by chance once in 10^6, and the seed is fixed.
static void assert_frequencies(const double *wanted, double temperature, int64_t top_k,
                               double top_p) {
    float logits[V];
    int counts[V] = {0};
    double total = 0.0;
    for (int i = 0; i < V; i++) logits[i] = (float)log(weights[i]) + 3.0f;
    for (int64_t i = 0; i < DRAWS; i++) counts[draw(logits, temperature, top_k, top_p, i)]++;
    for (int i = 0; i < V; i++) total += wanted[i];
    for (int i = 0; i < V; i++) {
        double p = wanted[i] / total;
        double bound = 5.0 * sqrt(DRAWS * p * (1.0 - p));
        assert_true(fabs(counts[i] - DRAWS * p) <= bound);
    }
}

static void the_frequencies_are_the_softmax(void **state) {
    (void)state;
    assert_frequencies(weights, 1.0, 0, 1.0);
}

static void temperature_flattens_and_sharpens(void **state) {
    (void)state;
    double warm[V], cold[V];
    for (int i = 0; i < V; i++) {
        warm[i] = sqrt(weights[i]);
        cold[i] = weights[i] * weights[i];
    }
    assert_frequencies(warm, 2.0, 0, 1.0);
    assert_frequencies(cold, 0.5, 0, 1.0);
}

static void top_k_keeps_the_k_likeliest(void **state) {
    (void)state;
    assert_frequencies((double[V]){0, 0, 0, 8, 16, 0}, 1.0, 2, 1.0);
    assert_frequencies((double[V]){0, 0, 0, 0, 16, 0}, 1.0, 1, 1.0);
    assert_frequencies(weights, 1.0, 100, 1.0); // more than there are
}

static void top_p_keeps_the_fewest_that_hold_the_mass(void **state) {
    (void)state;
    assert_frequencies((double[V]){0, 0, 0, 0, 16, 0}, 1.0, 0, 0.49); // 16/32 holds 0.49 alone
    assert_frequencies((double[V]){0, 0, 0, 8, 16, 0}, 1.0, 0, 0.51); // but not 0.51
    assert_frequencies((double[V]){0, 0, 0, 0, 16, 0}, 1.0, 0, 0.0);  // never none
    assert_frequencies((double[V]){0, 0, 0, 0, 16, 0}, 1.0, 2, 0.6);  // 16/24 of the two left
}

static void a_cut_through_a_tie_keeps_the_lower_token(void **state) {
    (void)state;
    // Tokens 0 and 5 have the same weight; the fifth place belongs to token 0.
    assert_frequencies((double[V]){1, 2, 4, 8, 16, 0}, 1.0, 5, 1.0);
}

static void temperature_zero_takes_the_largest_and_the_lower_of_a_tie(void **state) {
    (void)state;
    const float logits[V] = {0.5f, 2.0f, 2.0f, -1.0f, 2.0f, 1.0f};
    for (int64_t i = 0; i < 100; i++) assert_int_equal(1, draw(logits, 0.0, 0, 1.0, i));
    assert_int_equal(1, draw(logits, 1e-300, 1, 1.0, 0));
}

static void the_same_seed_and_position_draw_the_same_token(void **state) {
    (void)state;
    const float flat[V] = {0};
    int changes = 0;
    for (int64_t i = 0; i < 100; i++) {
        assert_int_equal(draw(flat, 1.0, 0, 1.0, i), draw(flat, 1.0, 0, 1.0, i));
        changes += draw(flat, 1.0, 0, 1.0, i) != draw(flat, 1.0, 0, 1.0, i + 1);
    }
    assert_in_range(changes, 60, 99); // 5/6 of 100 expected
}

static void infinite_and_missing_numbers_are_never_drawn_by_accident(void **state) {
    (void)state;
    const float masked[V] = {-INFINITY, NAN, 0.0f, -INFINITY, NAN, -INFINITY};
    const float broken[V] = {NAN, NAN, NAN, NAN, NAN, NAN};
    const float certain[V] = {0.0f, 1.0f, INFINITY, NAN, 0.0f, 0.0f};
    for (int64_t i = 0; i < 100; i++) {
        assert_int_equal(2, draw(masked, 1.0, 0, 1.0, i));
        assert_int_equal(2, draw(certain, 1.0, 0, 1.0, i));
        assert_int_equal(0, draw(broken, 1.0, 0, 1.0, i));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_frequencies_are_the_softmax),
        cmocka_unit_test(temperature_flattens_and_sharpens),
        cmocka_unit_test(top_k_keeps_the_k_likeliest),
        cmocka_unit_test(top_p_keeps_the_fewest_that_hold_the_mass),
        cmocka_unit_test(a_cut_through_a_tie_keeps_the_lower_token),
        cmocka_unit_test(temperature_zero_takes_the_largest_and_the_lower_of_a_tie),
        cmocka_unit_test(the_same_seed_and_position_draw_the_same_token),
        cmocka_unit_test(infinite_and_missing_numbers_are_never_drawn_by_accident),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
