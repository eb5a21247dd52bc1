// What the stand-ins for CUDA's runtime, cuBLAS and NCCL share (execution.cpp is the emulated GPU;
// streams.cpp, memory.cpp, runtime.cpp, cublas.cpp and nccl.cpp are libraries on it). Test code
// only; nothing of it is in the product.
#ifndef MOETRAIN_TESTS_EMULATION_EMULATION_H
#define MOETRAIN_TESTS_EMULATION_EMULATION_H

#include <cuda_runtime.h>
#include <stddef.h>

#include <functional>

namespace emulation {

// Ends the process with the message, and with block and thread when inside a kernel.
[[noreturn]] void die(const char *format, ...) __attribute__((format(printf, 1, 2)));

// Puts work into a stream, to be done in the stream's order when somebody waits for it. During the
// work device memory is accessible to host code (the stand-ins of library kernels); outside it is
// poisoned under AddressSanitizer.
void enqueue(cudaStream_t stream, const char *what, std::function<void()> work);
// As `enqueue`, for work that may have to wait for other processes: `poll` is called again and
// again, between pieces of other streams' work, until it returns true.
void enqueue_polled(cudaStream_t stream, const char *what, std::function<bool()> poll);

// Whether the bytes lie wholly inside one live allocation of cudaMalloc.
bool is_device_memory(const void *data, size_t bytes);
// The same, fatal with the name of the argument otherwise. NULL with 0 bytes is legal.
void check_device_memory(const void *data, size_t bytes, const char *call, const char *argument);

// Whether MOETRAIN_EMULATION_FAIL="name:n" (or several, with commas between) asks for this call of
// the function `name`, its n-th, to fail. Every emulated library function asks once a call, with
// its own name.
bool fails(const char *name);

} // namespace emulation

#endif
