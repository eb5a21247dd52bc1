// How evenly experts are used, against figures worked out by hand.
#include "model/router_health.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

// The last bits of a quotient, a root or an exponential.
static bool near(double got, double want) {
    return fabs(got - want) <= 1e-14 * fabs(want) + 1e-15;
}

static void even_loads_are_healthy(void **state) {
    (void)state;
    const int64_t routed[] = {3, 1, 4, 0}, dropped[] = {1, 3, 0, 4};
    RouterHealth health = router_health(routed, dropped, 4);
    assert_true(health.max_vio == 0 && health.cv == 0 && health.dead == 0);
    assert_true(near(health.effective, 1));
}

// Loads 6, 2, 0, 0: mean 2, H = -(3/4 ln 3/4 + 1/4 ln 1/4).
static void uneven_loads_are_measured(void **state) {
    (void)state;
    const int64_t routed[] = {6, 2, 0, 0};
    RouterHealth health = router_health(routed, NULL, 4);
    assert_true(near(health.max_vio, 2));
    assert_true(near(health.cv, sqrt(6) / 2));
    assert_int_equal(health.dead, 2);
    assert_true(near(health.effective, pow(4, 0.25) * pow(4.0 / 3, 0.75) / 4));
    const int64_t hardly[] = {1, 0, 5};
    assert_int_equal(router_health(hardly, NULL, 3).dead, 1);
    const int64_t one[] = {0, 0, 9};
    health = router_health(one, NULL, 3);
    assert_true(near(health.max_vio, 2) && near(health.effective, 1.0 / 3));
}

static void no_choice_is_no_number_by_zero(void **state) {
    (void)state;
    const int64_t nothing[] = {0, 0, 0};
    RouterHealth health = router_health(nothing, NULL, 3);
    assert_true(health.max_vio == 0 && health.cv == 0 && health.effective == 0);
    assert_int_equal(health.dead, 3);
}

static void percentiles_are_values_of_layers(void **state) {
    (void)state;
    double ten[] = {10, 9, 8, 7, 6, 5, 4, 3, 2, 1}, one[] = {7};
    assert_true(percentile(ten, 10, 50) == 5);
    assert_true(percentile(ten, 10, 90) == 9);
    assert_true(percentile(ten, 10, 91) == 10);
    assert_true(percentile(ten, 10, 100) == 10);
    assert_true(percentile(one, 1, 1) == 7);
    double layers[] = {3, 1, 2};
    char text[96];
    router_health_over_layers(layers, 3, text);
    assert_string_equal(text, "max_vio over layers: p50 2.000, p90 3.000, max 3.000");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(even_loads_are_healthy),
        cmocka_unit_test(uneven_loads_are_measured),
        cmocka_unit_test(no_choice_is_no_number_by_zero),
        cmocka_unit_test(percentiles_are_values_of_layers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
