// The table of parameters: it takes any number of rows, and a model stays small enough for any
// stack.
#include "model/params.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "model/model.h"

static void a_table_takes_as_many_rows_as_there_are(void **state) {
    (void)state;
    ParamTable table = {0};
    for (int i = 0; i < 10000; i++) {
        int64_t shape[] = {3, 5}; // 15 elements, padded to 16
        int row = param_add(&table, PARAM_DENSE, INIT_ZEROS, 0, false, 2, shape, "layers.%d.w", i);
        assert_int_equal(row, i);
    }
    assert_int_equal(table.count, 10000);
    assert_string_equal(table.rows[9999].name, "layers.9999.w");
    assert_int_equal(table.rows[9999].offset, 9999 * 16);
    assert_int_equal(table.elements[PARAM_DENSE], 10000 * 16);
    param_table_free(&table);
    assert_int_equal(table.count, 0);
    param_table_free(&table); // legal on a zeroed one
}

static void a_model_is_small(void **state) {
    (void)state;
    assert_in_range(sizeof(Model), 1, 65536);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_table_takes_as_many_rows_as_there_are),
        cmocka_unit_test(a_model_is_small),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
