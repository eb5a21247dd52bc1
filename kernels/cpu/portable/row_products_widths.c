#include "kernels/cpu/portable/row_products_widths.h"

static bool has_avx512(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}
static bool has_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
static bool has_sse(void) {
    return true;
}

const RowProductWidth row_product_widths[ROW_PRODUCT_WIDTHS] = {
    {"avx512", row_product_avx512, has_avx512},
    {"avx2", row_product_avx2, has_avx2},
    {"sse", row_product_sse, has_sse},
};

void row_product(float *y, int64_t y_width, const float *x, int64_t x_width, WeightRows w,
                 int64_t rows, int64_t columns, int64_t depth, bool add, float *scratch) {
    int i = 0;
    while (!row_product_widths[i].runs_here()) i++;
    row_product_widths[i].product(y, y_width, x, x_width, w, rows, columns, depth, add, scratch);
}
