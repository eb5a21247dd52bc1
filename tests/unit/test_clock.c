// Lengths of time as they are read.
#include "kernels/clock.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void a_duration_has_its_two_largest_units(void **state) {
    (void)state;
    const struct {
        double seconds;
        const char *wanted;
    } cases[] = {{0, "0s"},         {16.6, "17s"},     {59.6, "1m00s"},
                 {245, "4m05s"},    {7400, "2h03m"},   {359940, "99h59m"},
                 {360000, "4d04h"}, {3.7e6, "42d19h"}, {366 * 86400.0, "366d00h"},
                 {-1, "0s"},        {INFINITY, "0s"},  {NAN, "0s"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[CLOCK_DURATION_BYTES];
        assert_string_equal(clock_duration(cases[i].seconds, text), cases[i].wanted);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_duration_has_its_two_largest_units),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
