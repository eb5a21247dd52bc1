#include "kernels/cuda/cuda_device.h"

enum { WORKSPACE_ALIGNMENT = 256 };

void cuda_die(const char *file, int line, const char *call, cudaError_t code) {
    die(EXIT_COMMUNICATION, file, line, "%s: %s (%s)", call, cudaGetErrorString(code),
        cudaGetErrorName(code));
}

void cublas_die(const char *file, int line, const char *call, cublasStatus_t code) {
    die(EXIT_COMMUNICATION, file, line, "%s: %s (%s)", call, cublasGetStatusString(code),
        cublasGetStatusName(code));
}

void *cuda_workspace(Device *dev, size_t bytes) {
    CudaState *state = cuda_state(dev);
    if (bytes <= state->workspace_bytes) return state->workspace;
    bytes =
        (bytes + bytes / 4 + WORKSPACE_ALIGNMENT - 1) / WORKSPACE_ALIGNMENT * WORKSPACE_ALIGNMENT;
    CUDA_CHECK(cudaStreamSynchronize(state->compute));
    CUDA_CHECK(cudaFree(state->workspace));
    state->workspace = device_allocate(dev, bytes, "the kernels' workspace");
    state->workspace_bytes = bytes;
    return state->workspace;
}
