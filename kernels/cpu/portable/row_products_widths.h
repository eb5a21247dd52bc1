// A binary for any CPU (MOETRAIN_NATIVE off) has row_products.c once for each width of registers
// and takes the widest that the CPU has at run time, as oneDNN does for the other products.
#ifndef MOETRAIN_KERNELS_CPU_PORTABLE_ROW_PRODUCTS_WIDTHS_H
#define MOETRAIN_KERNELS_CPU_PORTABLE_ROW_PRODUCTS_WIDTHS_H

#include "kernels/cpu/row_products.h"

typedef void RowProduct(float *y, int64_t y_width, const float *x, int64_t x_width, WeightRows w,
                        int64_t rows, int64_t columns, int64_t depth, bool add, float *scratch);

// row_product as CMakeLists.txt compiles it for these registers.
RowProduct row_product_avx512, row_product_avx2, row_product_sse;

typedef struct RowProductWidth {
    const char *registers;
    RowProduct *product;
    bool (*runs_here)(void);
} RowProductWidth;

// The widest first; the last one runs anywhere.
enum { ROW_PRODUCT_WIDTHS = 3 };
extern const RowProductWidth row_product_widths[ROW_PRODUCT_WIDTHS];

#endif
