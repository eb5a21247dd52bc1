// By how much QK-clip scales a group of heads; what becomes of the weights is a matter of
// tests/cli/test_qk_clip.py.
#include "model/qk_clip.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void the_largest_head_of_a_group_decides(void **state) {
    (void)state;
    const double largest[] = {50, 200, -3, 100};
    assert_true(qk_clip_gamma(largest, 2, 100) == 0.5);
    assert_true(qk_clip_gamma(largest + 1, 2, 100) == 0.5); // wherever it stands
    assert_true(qk_clip_gamma(largest, 1, 100) == 1);       // below the threshold
    assert_true(qk_clip_gamma(largest + 2, 1, 100) == 1);
    assert_true(qk_clip_gamma(largest + 3, 1, 100) == 1); // at it
    const double none[] = {-INFINITY, -1};
    assert_true(qk_clip_gamma(none, 2, 100) == 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_largest_head_of_a_group_decides)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
