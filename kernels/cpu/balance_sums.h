// Addends of the sums of balance_ops.h on the CPU.
#ifndef MOETRAIN_KERNELS_CPU_BALANCE_SUMS_H
#define MOETRAIN_KERNELS_CPU_BALANCE_SUMS_H

#include <math.h>

#include "kernels/balance_ops.h"

// The whole number of BALANCE_UNIT next to x, ties to the even one.
static inline int64_t balance_units(float x) {
    const float most = (float)BALANCE_ADDEND_MAX;
    return llrint((double)(x > 0.0f ? (x < most ? x : most) : 0.0f) / BALANCE_UNIT);
}

#endif
