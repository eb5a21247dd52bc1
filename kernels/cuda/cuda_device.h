// Private to kernels/cuda/ and comm/collectives_nccl.c: what a CUDA Device holds, and how its
// failures end.
//
// Three streams. Ops and copies go to `compute`, in call order; device collectives go to `exchange`
// and `sums` (comm/collectives_nccl.c), ordered against `compute` by events, so that a transfer
// runs beside kernels that do not need it. Nothing in a training step waits for the whole device.
#ifndef MOETRAIN_KERNELS_CUDA_CUDA_DEVICE_H
#define MOETRAIN_KERNELS_CUDA_CUDA_DEVICE_H

#include <cublasLt.h>
#include <cublas_v2.h>
#include <cuda_runtime.h>

#include "kernels/device.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { UPLOADS = 4 };

typedef struct CudaState {
    int ordinal; // of the GPU on this host
    int multiprocessors;
    int compute_capability; // 90 is sm_90
    cudaStream_t compute;
    cudaStream_t exchange; // of tokens: blocks of its kernels go before those of all others
    cudaStream_t sums;     // of gradients: blocks of its kernels go before those of `compute`
    struct CudaUpload {    // a place of pinned memory that host bytes go through
        void *pinned;
        cudaEvent_t sent; // its copy to the device
    } uploads[UPLOADS];
    int next_upload;
    cublasLtHandle_t lt;
    cublasHandle_t blas; // on `compute`
    void *workspace;     // see cuda_workspace
    size_t workspace_bytes;
    void *library_workspace; // of cuBLAS and cuBLASLt
    size_t library_workspace_bytes;
    void *matmul_plans; // matmul_plan.c: the algorithm chosen for each shape
    void *grouped_call; // matmul_cuda.c
} CudaState;

static inline CudaState *cuda_state(const Device *dev) {
    return (CudaState *)dev->state;
}

// Scratch for the op that asks, valid until the next call: ops run one after the other on
// `compute`, so one block serves them all. It grows (and then waits for the device) while shapes
// are new, in the first step, and never afterwards. 256-byte aligned. Fatal (exit 5) when there is
// no memory.
void *cuda_workspace(Device *dev, size_t bytes);

// A failed call ends the job with the library's words. Launch failures of kernels show here and in
// device_synchronize.
MOETRAIN_NORETURN void cuda_die(const char *file, int line, const char *call, cudaError_t code);
MOETRAIN_NORETURN void cublas_die(const char *file, int line, const char *call,
                                  cublasStatus_t code);
#define CUDA_CHECK(call)                                                                           \
    do {                                                                                           \
        cudaError_t cuda_code_ = (call);                                                           \
        if (cuda_code_ != cudaSuccess) cuda_die(__FILE__, __LINE__, #call, cuda_code_);            \
    } while (0)
#define CUBLAS_CHECK(call)                                                                         \
    do {                                                                                           \
        cublasStatus_t cublas_code_ = (call);                                                      \
        if (cublas_code_ != CUBLAS_STATUS_SUCCESS)                                                 \
            cublas_die(__FILE__, __LINE__, #call, cublas_code_);                                   \
    } while (0)

#ifdef __cplusplus
}
#endif

#endif
