// The additions of the fixed tree over ranks (comm/collectives_nccl.c). Not an op of kernels.h: it
// runs on the exchange stream, between the messages that bring its operand.
#ifndef MOETRAIN_KERNELS_CUDA_TREE_CUDA_H
#define MOETRAIN_KERNELS_CUDA_TREE_CUDA_H

#include <cuda_runtime.h>

#include "kernels/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

// x += y for `count` elements of the device: f32, f64, i32 or i64.
void tree_add_cuda(void *x, const void *y, int64_t count, DType dtype, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
