// Where each number occurs in a list of them.
#ifndef MOETRAIN_KERNELS_CUDA_OCCURRENCES_H
#define MOETRAIN_KERNELS_CUDA_OCCURRENCES_H

#include "kernels/device.h"

#ifdef __cplusplus
extern "C" {
#endif

// at (N): the places in `numbers` of 0, of 1, … of count - 1, each number's in ascending order;
// begin (count + 1): where in `at` those of a number begin. numbers (N) i32 in 0 … count - 1; or,
// with `others`, any, of which 0 … count - 1 become those of first … first + count - 1 and whose
// places are listed behind begin[count] where they are none of these. Device memory; takes the
// workspace.
void list_occurrences(Device *dev, int32_t *at, int32_t *begin, const int32_t *numbers, int64_t N,
                      int64_t count, int64_t first, bool others);

#ifdef __cplusplus
}
#endif

#endif
