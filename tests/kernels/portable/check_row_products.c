// Forward products for each width of registers that this CPU has, also those that it would not
// take: against the reference, and a row's bits with and without its neighbours.
#include <math.h>

#include "harness.h"
#include "kernels/cpu/portable/row_products_widths.h"

enum { DEPTH = 401, COLUMNS = 37 };

// |x| |w| summed is what each of `depth` roundings is relative to.
static void expect_product(const char *registers, Tensor y, Tensor x, Tensor w) {
    double *want = new_doubles(tensor_elements(y)), *unit = new_doubles(tensor_elements(y));
    for (int64_t r = 0; r < x.shape[0]; r++)
        for (int64_t n = 0; n < COLUMNS; n++) {
            double sum = 0, size = 0;
            for (int64_t k = 0; k < DEPTH; k++) {
                double a = tensor_f32(x)[r * DEPTH + k], b = tensor_f32(w)[n * DEPTH + k];
                sum += a * b;
                size += fabs(a * b);
            }
            want[r * COLUMNS + n] = sum;
            unit[r * COLUMNS + n] = size;
        }
    expect_near(registers, y, want, 0, unit, DEPTH * F32_EPS);
}

static void check_width(const RowProductWidth *width, int64_t rows) {
    begin_case("%s, %lld rows", width->registers, (long long)rows);
    Tensor x = random_2d(rows, DEPTH), w = random_2d(COLUMNS, DEPTH);
    Tensor y = new_2d(F32, rows, COLUMNS), alone = new_2d(F32, 1, COLUMNS);
    float *scratch = tensor_f32(new_1d(F32, ROW_PRODUCT_FLOATS));
    WeightRows weights = {tensor_f32(w), F32, DEPTH};
    width->product(tensor_f32(y), COLUMNS, tensor_f32(x), DEPTH, weights, rows, COLUMNS, DEPTH,
                   false, scratch);
    expect_product(width->registers, y, x, w);
    for (int64_t r = 0; r < rows; r++) {
        width->product(tensor_f32(alone), COLUMNS, tensor_f32(x) + r * DEPTH, DEPTH, weights, 1,
                       COLUMNS, DEPTH, false, scratch);
        expect_same_bytes("a row alone", alone, tensor_f32(y) + r * COLUMNS);
    }
    release_all();
}

int main(void) {
    static const int64_t rows[] = {1, 2, 3, 7, 8, 9, 16, 33, 128};
    for (int i = 0; i < ROW_PRODUCT_WIDTHS; i++)
        for (size_t r = 0; r < sizeof rows / sizeof *rows; r++)
            if (row_product_widths[i].runs_here()) check_width(&row_product_widths[i], rows[r]);
    return failures();
}
