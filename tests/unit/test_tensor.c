// Tensors: sizes, row views, and that wrong shapes and types end the program.
#include "kernels/tensor.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static jmp_buf after_death;
static int death_code;

static void survive(int exit_code) {
    death_code = exit_code;
    longjmp(after_death, 1);
}

#define assert_dies(statement)                                                                     \
    do {                                                                                           \
        death_code = 0;                                                                            \
        die_hook = survive;                                                                        \
        if (setjmp(after_death) == 0) {                                                            \
            statement;                                                                             \
        }                                                                                          \
        assert_int_equal(death_code, EXIT_BUG);                                                    \
    } while (0)

static void sizes_are_products_of_the_shape(void **state) {
    (void)state;
    Tensor x = tensor_3d(NULL, F64, 3, 5, 7);
    assert_int_equal(tensor_elements(x), 105);
    assert_int_equal(tensor_bytes(x), 840);
    assert_int_equal(x.shape[3], 1);
    assert_int_equal(tensor_bytes(tensor_1d(NULL, U8, 9)), 9);
    assert_int_equal(tensor_bytes(tensor_2d(NULL, I32, 0, 9)), 0);
    assert_int_equal(tensor_bytes(tensor_1d(NULL, I64, 2)), 16);
    assert_int_equal(tensor_bytes(tensor_1d(NULL, F32, 2)), 8);
    assert_string_equal(dtype_name(I64), "i64");
}

static void rows_are_views_into_the_same_memory(void **state) {
    (void)state;
    float numbers[24] = {0};
    Tensor x = tensor_3d(numbers, F32, 4, 3, 2), rows = tensor_rows(x, 1, 2);
    assert_ptr_equal(rows.data, numbers + 6);
    assert_int_equal(rows.shape[0], 2);
    assert_int_equal(tensor_rows(x, 4, 0).shape[0], 0); // an empty range at the end is legal
    assert_null(tensor_rows(tensor_2d(NULL, F32, 4, 4), 2, 1).data);
    Tensor flat = tensor_reshape_2d(x, 12, 2);
    assert_ptr_equal(flat.data, numbers);
    assert_int_equal(flat.rank, 2);
}

static void views_outside_of_the_tensor_are_fatal(void **state) {
    (void)state;
    float numbers[8];
    Tensor x = tensor_2d(numbers, F32, 4, 2);
    assert_dies(tensor_rows(x, 3, 2));
    assert_dies(tensor_rows(x, -1, 1));
    assert_dies(tensor_rows(x, 1, -1));
    assert_dies(tensor_reshape_2d(x, 3, 3));
}

static void another_dtype_is_fatal(void **state) {
    (void)state;
    float number = 1;
    Tensor x = tensor_1d(&number, F32, 1);
    assert_ptr_equal(tensor_f32(x), &number);
    assert_dies(tensor_f64(x));
    assert_dies(tensor_i32(x));
    assert_dies(tensor_i64(x));
    assert_dies(tensor_u8(x));
}

static void another_shape_is_fatal(void **state) {
    (void)state;
    Tensor x = tensor_2d(NULL, F32, 4, 2);
    CHECK_SHAPE_2D(x, F32, 4, 2);
    assert_dies(CHECK_SHAPE_2D(x, F32, 2, 4));
    assert_dies(CHECK_SHAPE_2D(x, F32, 4, 3));
    assert_dies(CHECK_SHAPE_2D(x, I32, 4, 2));
    assert_dies(CHECK_SHAPE_1D(x, F32, 4));
    assert_dies(CHECK_SHAPE_3D(x, F32, 4, 2, 1));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_are_products_of_the_shape),
        cmocka_unit_test(rows_are_views_into_the_same_memory),
        cmocka_unit_test(views_outside_of_the_tensor_are_fatal),
        cmocka_unit_test(another_dtype_is_fatal),
        cmocka_unit_test(another_shape_is_fatal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
