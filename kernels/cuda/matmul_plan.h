// Private to kernels/cuda/: which algorithm of cuBLASLt does a matrix product, so that the bits are
// those that the program promises (matmul_plan.c says how that is made sure of).
#ifndef MOETRAIN_KERNELS_CUDA_MATMUL_PLAN_H
#define MOETRAIN_KERNELS_CUDA_MATMUL_PLAN_H

#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/grouped_matmul.h"

#ifdef __cplusplus
extern "C" {
#endif

// c = a b by cuBLASLt. With dev->fixed_order and a not transposed, a row of c has the same bits in
// a product of any number of rows. False where the library cannot or must not do it; then nothing
// was done, and our own kernel (grouped_matmul.h) has to: the same answer for every number of rows.
// p.m, p.n and p.depth are not 0. Waits for the device when the product is the first of its kind.
bool matmul_by_plan(Device *dev, MatrixProduct p);

// Backend's `products`: a line for each kind of product that was met and whose bits other ranks
// rely on, or which the library does not do.
void matmul_plans_describe(Device *dev, ProductLine say, void *context);

// Free state->matmul_plans, and state->grouped_call, which is matmul_cuda.c's.
void matmul_plans_free(CudaState *state);
void grouped_call_free(CudaState *state);

// The device memory that a first product takes at most while algorithms are tried.
size_t matmul_trial_bytes(void);

#ifdef __cplusplus
}
#endif

#endif
