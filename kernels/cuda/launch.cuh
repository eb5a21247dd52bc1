// How every kernel is started, and the few words that all of them share. The only launch in the
// program: no <<<>>>, so that the same sources run under tests/emulation.
#ifndef MOETRAIN_KERNELS_CUDA_LAUNCH_CUH
#define MOETRAIN_KERNELS_CUDA_LAUNCH_CUH

#include <tuple>
#include <utility>

#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/ptx.cuh"

enum { WARP = 32 };
static const unsigned ALL_LANES = 0xffffffffu;
enum { PLAIN_SHARED_BYTES = 48 << 10 }; // more must be asked for, once a kernel

static inline int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

template <typename... Parameters, size_t... I>
static inline void launch_with(cudaStream_t stream, void (*kernel)(Parameters...), dim3 grid,
                               dim3 block, size_t shared_bytes, std::tuple<Parameters...> &values,
                               std::index_sequence<I...>) {
    void *pointers[] = {const_cast<void *>(static_cast<const void *>(&std::get<I>(values)))...};
    if (shared_bytes > PLAIN_SHARED_BYTES)
        CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        (int)shared_bytes));
    CUDA_CHECK(cudaLaunchKernel(kernel, grid, block, pointers, shared_bytes, stream));
}

// Starts `kernel` on a stream. Arguments are converted to the kernel's own parameter types and
// copied now. A grid without blocks is nothing to do.
template <typename... Parameters, typename... Arguments>
static inline void launch_on(cudaStream_t stream, void (*kernel)(Parameters...), dim3 grid,
                             dim3 block, size_t shared_bytes, Arguments... arguments) {
    static_assert(sizeof...(Parameters) == sizeof...(Arguments), "arguments of the kernel");
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
    std::tuple<Parameters...> values(static_cast<Parameters>(arguments)...);
    launch_with(stream, kernel, grid, block, shared_bytes, values,
                std::index_sequence_for<Parameters...>());
}

// Starts `kernel` on the compute stream: every op.
template <typename... Parameters, typename... Arguments>
static inline void launch(Device *dev, void (*kernel)(Parameters...), dim3 grid, dim3 block,
                          size_t shared_bytes, Arguments... arguments) {
    launch_on(cuda_state(dev)->compute, kernel, grid, block, shared_bytes, arguments...);
}

// A grid of `blocks` along x; fatal when CUDA has no such grid.
static inline dim3 grid_of(int64_t blocks) {
    CHECK(blocks <= 0x7fffffff, "a grid of %lld blocks", (long long)blocks);
    return dim3((unsigned)blocks);
}

#endif
