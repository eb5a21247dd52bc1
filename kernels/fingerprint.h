// Whether two processors compute the same bits: a hash of what this one makes of fixed numbers.
#ifndef MOETRAIN_KERNELS_FINGERPRINT_H
#define MOETRAIN_KERNELS_FINGERPRINT_H

#include "kernels/device.h"

enum { FINGERPRINT_BYTES = 17 };

// 16 digits of hex over products of matrices on a CPU (all three passes, deep enough to be summed
// in blocks) and over the C library's functions that the program uses, on any host. Vector width,
// fused multiply-add and block sizes, which libraries choose by processor and environment, all show
// in it. Where two differ so do results; where they are equal results of other shapes may still
// differ, so kinds of processors are compared too. Not collective.
void device_fingerprint(Device *dev, char text[FINGERPRINT_BYTES]);

#endif
