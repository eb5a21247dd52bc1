// The solver of widths, on costs that are known.
#include "launcher/compare/equal_flops.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

typedef struct Line {
    double base, slope;
    int64_t illegal; // from here on
    int calls;
} Line;

static bool cost_of(void *context, int64_t width, double *flops, Error *err) {
    Line *line = context;
    line->calls++;
    if (line->illegal > 0 && width >= line->illegal)
        return error_set(err, EXIT_CONFIG, "width %lld", (long long)width);
    *flops = line->base + line->slope * (double)width;
    return true;
}

static WidthBounds find(Line *line, int64_t multiple, int64_t least, int64_t most, double target) {
    WidthBounds bounds;
    Error err = {0};
    assert_true(width_bounds_find(&bounds, multiple, least, most, target, cost_of, line, &err));
    return bounds;
}

static void the_neighbours_of_every_target_are_found(void **state) {
    (void)state;
    for (int64_t multiple = 1; multiple <= 8; multiple += 7)
        for (int target = 0; target < 1400; target++) {
            Line line = {100, 1, 0, 0};
            WidthBounds found = find(&line, multiple, 3, 1000, target + 0.25);
            double width = target + 0.25 - 100; // that would be exact
            int64_t first = multiple == 1 ? 3 : 8, last = 1000;
            if (width <= (double)first || width >= (double)last) {
                int64_t end = width <= (double)first ? first : last;
                assert_int_equal(found.width[0], end);
                assert_int_equal(found.width[1], end);
                continue;
            }
            assert_int_equal(found.width[1] - found.width[0], multiple);
            assert_true((double)found.width[0] < width && width <= (double)found.width[1]);
            assert_true(found.flops[0] == 100 + (double)found.width[0]);
            double below = width - (double)found.width[0], above = (double)found.width[1] - width;
            assert_int_equal(found.nearest, above < below);
        }
}

static void an_exact_width_is_the_nearest(void **state) {
    (void)state;
    Line line = {7, 3, 0, 0};
    WidthBounds found = find(&line, 1, 1, 1000000, 7 + 3 * 12345.0);
    assert_int_equal(found.width[found.nearest], 12345);
    assert_in_range(line.calls, 1, 40); // each is a plan of a model
}

static void a_flat_cost_ends(void **state) {
    (void)state;
    Line line = {5, 0, 0, 0};
    WidthBounds found = find(&line, 1, 1, 1000, 6);
    assert_true(found.flops[found.nearest] == 5);
}

static void widths_far_above_the_target_are_not_tried(void **state) {
    (void)state;
    Line line = {0, 1, 128, 0};
    assert_int_equal(find(&line, 1, 1, 1000000, 60).width[1], 60);
    WidthBounds bounds;
    Error err = {0};
    assert_false(width_bounds_find(&bounds, 1, 1, 1000000, 150, cost_of, &line, &err));
    assert_int_equal(err.exit_code, EXIT_CONFIG);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_neighbours_of_every_target_are_found),
        cmocka_unit_test(an_exact_width_is_the_nearest),
        cmocka_unit_test(a_flat_cost_ends),
        cmocka_unit_test(widths_far_above_the_target_are_not_tried),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
