// Private to the emulated GPU: what execution.cpp, warp.cpp, program.cpp, streams.cpp, memory.cpp
// and runtime.cpp know of each other. The libraries on it (cublas.cpp, nccl.cpp) see emulation.h
// only.
#ifndef MOETRAIN_TESTS_EMULATION_GPU_H
#define MOETRAIN_TESTS_EMULATION_GPU_H

#include <stdint.h>

#include <mutex>
#include <string>
#include <vector>

#include "cuda_emulation.h"

// The build defines EMULATION_ASAN for execution.cpp, which is compiled without instrumentation.
#if defined(__SANITIZE_ADDRESS__) || defined(EMULATION_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#undef EMULATION_ASAN
#define EMULATION_ASAN 1
#else
#define EMULATION_ASAN 0
#endif

namespace emulation {

// Whether AddressSanitizer lets anybody touch the bytes.
static inline void forbid(const void *data, size_t bytes) {
#if EMULATION_ASAN
    __asan_poison_memory_region(data, bytes);
#else
    (void)data, (void)bytes;
#endif
}
static inline void allow(const void *data, size_t bytes) {
#if EMULATION_ASAN
    __asan_unpoison_memory_region(data, bytes);
#else
    (void)data, (void)bytes;
#endif
}

enum { PLAIN_DYNAMIC_SHARED = 48 << 10, MOST_DYNAMIC_SHARED = 227 << 10, MOST_THREADS = 1024 };

// Chance, from MOETRAIN_EMULATION_SEED: a number, or "forward" and "reverse", which leave nothing
// to chance.
enum class Order { RANDOM, FORWARD, REVERSE };
Order order();
uint64_t random_bits();
static inline bool one_in(unsigned n) {
    return order() == Order::RANDOM && random_bits() % n == 0;
}

// Runs all blocks of a kernel, here and now (execution.cpp).
struct Kernel {
    const void *function;
    void (*run)(const void *launched);
    const void *launched; // function and arguments
    dim3 grid, block;
    size_t dynamic_shared;
};
void run_kernel(const Kernel &kernel);
bool is_shared_memory(const void *data, size_t bytes);

// The variables that kernels declare __shared__, and names of functions, from the program's own
// file (program.cpp).
struct SharedVariable {
    char *data;
    size_t bytes;
};
const std::vector<SharedVariable> &shared_variables();
std::string function_name(const void *function);

// While one lives, host code may touch device memory: it is work of the device (memory.cpp).
struct DeviceAccess {
    DeviceAccess();
    ~DeviceAccess();
    DeviceAccess(const DeviceAccess &) = delete;
};
size_t memory_limit(); // MOETRAIN_EMULATION_MEMORY
bool is_unified();     // MOETRAIN_EMULATION_UNIFIED
bool is_pinned_memory(const void *data, size_t bytes);

// Every function of the runtime's interface begins with one: calls come one at a time, and never
// from a kernel.
struct Call {
    explicit Call(const char *name);
    std::lock_guard<std::recursive_mutex> lock;
};
cudaError_t failed(cudaError_t code); // notes it for cudaGetLastError and returns it
// First lines of a function of the interface: an injected error of MOETRAIN_EMULATION_FAIL is
// `code`.
#define EMULATED_CALL(code)                                                                        \
    emulation::Call emulated_call(__func__);                                                       \
    if (emulation::fails(__func__)) return emulation::failed(code)

// Runs what is queued, in some order that streams and events allow (streams.cpp).
void finish_all();
void finish_stream(cudaStream_t stream);
void run_a_little();

} // namespace emulation

#endif
