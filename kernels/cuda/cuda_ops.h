// The CUDA implementation of every op of kernels.h, one .cu file per family; the table is in
// backend_cuda.c.
//
// All of them enqueue on the device's compute stream and return; none waits. Grids are cut by
// shapes and no float is added in an order that chance decides (no float atomics), so that the same
// inputs give the same bits.
#ifndef MOETRAIN_KERNELS_CUDA_CUDA_OPS_H
#define MOETRAIN_KERNELS_CUDA_CUDA_OPS_H

#include "kernels/kernels.h"
#include "kernels/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

#define OP(name, ...) void name##_cuda(Device *dev, __VA_ARGS__);
OPS(OP)
#undef OP

#ifdef __cplusplus
}
#endif

#endif
