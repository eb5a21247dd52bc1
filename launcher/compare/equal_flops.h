// Equal active FLOPs: a width of each row, such as moe.d_ff, becomes what makes a token cost what
// it does in the reference row, forward and backward, as `moetrain plan` counts. Not collective.
#ifndef MOETRAIN_LAUNCHER_COMPARE_EQUAL_FLOPS_H
#define MOETRAIN_LAUNCHER_COMPARE_EQUAL_FLOPS_H

#include "launcher/compare/comparison.h"

// What a token costs with this width. False with *err where it is no legal one.
typedef bool (*WidthCost)(void *context, int64_t width, double *flops, Error *err);

// What bounds the target: two neighbouring multiples, the same where it lies beyond what is legal.
typedef struct WidthBounds {
    int64_t width[2];
    double flops[2];
    int nearest; // 0 or 1
} WidthBounds;

// Finds them among the multiples of `multiple` from `least` to `most`, of which there is one; the
// cost must not fall with the width. False with what `cost` says.
bool width_bounds_find(WidthBounds *bounds, int64_t multiple, int64_t least, int64_t most,
                       double target, WidthCost cost, void *context, Error *err);

// Gives each row that names a width the value of it, as a change of the row. False with exit 2, the
// row, and the nearest values where none is within the tolerance.
bool equal_flops_solve(Comparison *comparison, Error *err);

#endif
