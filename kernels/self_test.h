// Whether a device computes what it should, and how fast: through the ops that the model uses.
#ifndef MOETRAIN_KERNELS_SELF_TEST_H
#define MOETRAIN_KERNELS_SELF_TEST_H

#include "kernels/device.h"

// Multiplies two known matrices through the backend's library and compares with exact results:
// libraries that mistake the CPU have computed wrong numbers before. False with exit 7.
bool device_self_test(Device *dev, Error *err);

// The rate of the fastest product of matrices in this storage, in GFLOP/s, through the op that the
// model uses: what the log's shares are of. No limit: the cores of a busy or shared machine do half
// of what they do a minute later. All threads of a CPU for 0.05 s, each (64, 256) by (256, 128) in
// its own cache and by its own clock. On a GPU for 0.2 s squares of 256, and of twice that up to
// 8192 while one takes less than a millisecond, many between two looks at the clock, and by
// whatever algorithm the library likes best, with fixed_order too.
double device_measure_gemm_gflops(const Device *dev, DType storage);

// The rate of the three products of a layer: on a CPU of (256, 512) by (512, 512); on a GPU the one
// above.
double device_measure_layer_gflops(const Device *dev, DType storage);

#endif
