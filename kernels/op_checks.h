// What the checked fronts of ops have in common.
#ifndef MOETRAIN_KERNELS_OP_CHECKS_H
#define MOETRAIN_KERNELS_OP_CHECKS_H

#include "kernels/backend.h"
#include "kernels/integers.h"
#include "kernels/kernels.h"

static inline void check_storage(Tensor x) {
    CHECK(x.dtype == F32 || x.dtype == BF16, "a %s tensor, expected f32 or bf16",
          dtype_name(x.dtype));
}

// The storage type T of an op: that of x.
static inline DType storage(Tensor x) {
    check_storage(x);
    return x.dtype;
}

static inline void check_parts(int64_t parts, int64_t rows) {
    CHECK(parts > 0 && rows % parts == 0, "%lld rows in %lld equal parts", (long long)rows,
          (long long)parts);
}

static inline void check_tree(int64_t parts) {
    CHECK(is_power_of_two(parts), "%lld parts, expected a power of two", (long long)parts);
}

#endif
