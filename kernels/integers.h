// Arithmetic of whole numbers that several places need.
#ifndef MOETRAIN_KERNELS_INTEGERS_H
#define MOETRAIN_KERNELS_INTEGERS_H

#include <stdbool.h>
#include <stdint.h>

static inline int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static inline int64_t larger(int64_t a, int64_t b) {
    return a > b ? a : b;
}

static inline int64_t greatest_common_divisor(int64_t a, int64_t b) { // of a and 0: a
    return b == 0 ? a : greatest_common_divisor(b, a % b);
}

// Quotients of numbers below 2^31, faster than by a division: half a number is too much for an
// error of rounding to reach the next.
static inline double inverse_of(int64_t divisor) {
    return 1 / (double)divisor;
}

static inline int32_t quotient(int32_t number, double inverse) {
    return (int32_t)(((double)number + 0.5) * inverse);
}

static inline bool is_power_of_two(int64_t n) {
    return n > 0 && (n & (n - 1)) == 0;
}

static inline int64_t next_power_of_two(int64_t n) { // the first from n on
    int64_t power = 1;
    while (power < n) power *= 2;
    return power;
}

static inline int64_t largest_power_of_two_divisor(int64_t n) {
    return n & -n;
}

#endif
