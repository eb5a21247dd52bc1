// Whether a device computes what it should, and how fast: through the ops that the model uses.
#ifndef MOETRAIN_KERNELS_SELF_TEST_H
#define MOETRAIN_KERNELS_SELF_TEST_H

#include "kernels/device.h"

// Multiplies two known matrices through the backend's library and compares with exact results:
// libraries that mistake the CPU have computed wrong numbers before. False with exit 7.
bool device_self_test(Device *dev, Error *err);

// The best rate of a product of matrices in this storage within 0.2 s, in GFLOP/s, through the op
// that the model uses: the limit that the log's share is measured against. On all threads of a CPU
// (256, 512) by (512, 512), for up to half a second until three products agree, so that it is the
// same on a busy machine. On a GPU squares of 256, and of twice that up to 8192 while one
// takes less than a millisecond, many between two looks at the clock, and by whatever algorithm the
// library likes best, with fixed_order too.
double device_measure_gemm_gflops(Device *dev, DType storage);

#endif
