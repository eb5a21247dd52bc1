// What nvcc knows by itself, for the C++ compiler: included before the first line of every .cu
// file, so that the file runs as written on the emulated GPU (execution.cpp). A word of CUDA C that
// is missing here does not compile: better than one that is almost right. Arithmetic words are in
// device_functions.h.
#ifndef MOETRAIN_TESTS_EMULATION_CUDA_EMULATION_H
#define MOETRAIN_TESTS_EMULATION_CUDA_EMULATION_H

#include <cuda_runtime.h>
#include <cuda_bf16.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <limits>
#include <memory>
#include <source_location>
#include <tuple>
#include <type_traits>
#include <utility>

#include "emulation.h"

#undef __global__
#undef __device__
#undef __constant__
#undef __shared__
#undef __managed__
#undef __launch_bounds__
#undef __grid_constant__
#define __global__
#define __device__
#define __constant__ static
#define __launch_bounds__(...)
#define __grid_constant__
// The tag becomes part of the variable's symbol (also in templates), by which program.cpp finds all
// of them.
#define __shared__ static __attribute__((abi_tag("shared_memory")))

namespace emulation {

typedef std::source_location Place; // in a kernel

struct Thread {
    uint3 index;
    unsigned lane, warp;
};
extern Thread *current; // NULL outside kernels
extern uint3 block_index;
extern dim3 block_dim, grid_dim;

#define threadIdx (emulation::current->index)
#define blockIdx  (emulation::block_index)
#define blockDim  (emulation::block_dim)
#define gridDim   (emulation::grid_dim)

void *dynamic_shared();

// Waits for all threads of the block; returns how many of them came with true.
int barrier(bool predicate, Place at);

// Where the lanes of a mask meet: the last to come runs `finish` for all of them, then all go on.
// `operands` holds the pointer that each lane of the mask came with; lanes must come to the same
// operation at the same place with the same mask.
typedef void (*Finish)(unsigned mask, void *const operands[32]);
void meet(unsigned mask, const char *operation, Finish finish, void *operand, Place at);
// Fatal unless `source` is a lane of the mask that exists.
void check_source(unsigned mask, int source, const char *operation, Place at);

// Copies that arrive when they are waited for (ptx.cuh).
void copy_later(void *shared, const void *global, bool inside, Place at);
void close_copies();
void wait_copies(int pending);

// A panel of a warpgroup's product (kernels/cuda/ptx.cuh).
struct SharedPanel {
    const unsigned char *first;
    int next;
};
// A product that reads its panels, and changes d, some time before it is waited for.
void multiply_later(float *d, int columns, SharedPanel a, bool a_outermost, SharedPanel b,
                    bool b_outermost, bool keep, Place at);
// The same with a in registers; its rows are collected at once.
void add_later(float *d, int columns, const uint32_t a[4], SharedPanel b, Place at);
void close_products();
void wait_products(int pending);

// d += a b, and 8 by 8 matrices of 16-bit elements, by a whole warp (ptx.cuh says how they lie in
// the lanes).
void multiply_matrices(float d[4], const uint32_t a[4], const uint32_t b[2], Place at);
void load_matrices(uint32_t r[4], const void *shared_row, bool transposed, Place at);

} // namespace emulation

static const int warpSize = 32;

static inline void __syncthreads(emulation::Place at = emulation::Place::current()) {
    emulation::barrier(false, at);
}
static inline int __syncthreads_count(int predicate,
                                      emulation::Place at = emulation::Place::current()) {
    return emulation::barrier(predicate != 0, at);
}
static inline int __syncthreads_or(int predicate,
                                   emulation::Place at = emulation::Place::current()) {
    return emulation::barrier(predicate != 0, at) != 0;
}
static inline int __syncthreads_and(int predicate,
                                    emulation::Place at = emulation::Place::current()) {
    return emulation::barrier(predicate == 0, at) == 0;
}

static inline void __syncwarp(unsigned mask = 0xffffffffu,
                              emulation::Place at = emulation::Place::current()) {
    emulation::meet(
        mask, "__syncwarp", [](unsigned, void *const *) {}, nullptr, at);
}

unsigned __activemask() = delete; // which lanes run together is the machine's choice

namespace emulation {

template <typename T> struct Shuffled {
    T value, result;
    int source;
};
template <typename T> void finish_shuffle(unsigned mask, void *const operands[32]) {
    for (unsigned rest = mask; rest; rest &= rest - 1) {
        Shuffled<T> *lane = static_cast<Shuffled<T> *>(operands[__builtin_ctz(rest)]);
        lane->result = static_cast<Shuffled<T> *>(operands[lane->source])->value;
    }
}
template <typename T>
static inline T shuffle(unsigned mask, T value, int source, const char *operation, Place at) {
    static_assert(std::is_trivially_destructible_v<T> &&
                      (sizeof(T) == 4 || sizeof(T) == 8 || std::is_same_v<T, __nv_bfloat16>),
                  "a type that CUDA's shuffles take");
    check_source(mask, source, operation, at);
    Shuffled<T> operand = {value, value, source};
    meet(mask, operation, finish_shuffle<T>, &operand, at);
    return operand.result;
}
static inline int lane_of(const char *operation, int width, Place at) {
    if (!current) die("%s:%u: %s outside of a kernel", at.file_name(), at.line(), operation);
    if (width < 1 || width > 32 || (width & (width - 1)))
        die("%s:%u: %s of width %d: it must be 1, 2, 4, 8, 16 or 32", at.file_name(), at.line(),
            operation, width);
    return (int)current->lane;
}

struct Voted {
    uint64_t value;
    unsigned result;
};
void finish_ballot(unsigned mask, void *const operands[32]);
void finish_match_any(unsigned mask, void *const operands[32]);
void finish_add(unsigned mask, void *const operands[32]);
void finish_min(unsigned mask, void *const operands[32]);
void finish_max(unsigned mask, void *const operands[32]);
void finish_unsigned_min(unsigned mask, void *const operands[32]);
void finish_unsigned_max(unsigned mask, void *const operands[32]);
void finish_and(unsigned mask, void *const operands[32]);
void finish_or(unsigned mask, void *const operands[32]);
void finish_xor(unsigned mask, void *const operands[32]);
static inline unsigned vote(unsigned mask, const char *operation, Finish finish, uint64_t value,
                            Place at) {
    Voted operand = {value, 0};
    meet(mask, operation, finish, &operand, at);
    return operand.result;
}

} // namespace emulation

template <typename T>
static inline T __shfl_sync(unsigned mask, T value, int source, int width = 32,
                            emulation::Place at = emulation::Place::current()) {
    int lane = emulation::lane_of("__shfl_sync", width, at);
    int from = (lane & ~(width - 1)) + (source & (width - 1));
    return emulation::shuffle(mask, value, from, "__shfl_sync", at);
}
template <typename T>
static inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                               emulation::Place at = emulation::Place::current()) {
    int lane = emulation::lane_of("__shfl_up_sync", width, at);
    bool inside = (unsigned)(lane & (width - 1)) >= delta;
    return emulation::shuffle(mask, value, inside ? lane - (int)delta : lane, "__shfl_up_sync", at);
}
template <typename T>
static inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                                 emulation::Place at = emulation::Place::current()) {
    int lane = emulation::lane_of("__shfl_down_sync", width, at);
    bool inside = (unsigned)(lane & (width - 1)) + delta < (unsigned)width;
    return emulation::shuffle(mask, value, inside ? lane + (int)delta : lane, "__shfl_down_sync",
                              at);
}
template <typename T>
static inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32,
                                emulation::Place at = emulation::Place::current()) {
    int lane = emulation::lane_of("__shfl_xor_sync", width, at);
    int from = lane ^ bits;
    bool inside = from < (lane & ~(width - 1)) + width;
    return emulation::shuffle(mask, value, inside ? from : lane, "__shfl_xor_sync", at);
}

static inline unsigned __ballot_sync(unsigned mask, int predicate,
                                     emulation::Place at = emulation::Place::current()) {
    return emulation::vote(mask, "__ballot_sync", emulation::finish_ballot, predicate != 0, at);
}
static inline int __any_sync(unsigned mask, int predicate,
                             emulation::Place at = emulation::Place::current()) {
    return emulation::vote(mask, "__any_sync", emulation::finish_ballot, predicate != 0, at) != 0;
}
static inline int __all_sync(unsigned mask, int predicate,
                             emulation::Place at = emulation::Place::current()) {
    return emulation::vote(mask, "__all_sync", emulation::finish_ballot, predicate == 0, at) == 0;
}
template <typename T>
static inline unsigned __match_any_sync(unsigned mask, T value,
                                        emulation::Place at = emulation::Place::current()) {
    static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8), "4 or 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    return emulation::vote(mask, "__match_any_sync", emulation::finish_match_any, bits, at);
}

#define EMULATION_REDUCE(name, type, finish)                                                       \
    static inline type name(unsigned mask, type value,                                             \
                            emulation::Place at = emulation::Place::current()) {                   \
        return (type)emulation::vote(mask, #name, emulation::finish, (unsigned)value, at);         \
    }
EMULATION_REDUCE(__reduce_add_sync, int, finish_add)
EMULATION_REDUCE(__reduce_add_sync, unsigned, finish_add)
EMULATION_REDUCE(__reduce_min_sync, int, finish_min)
EMULATION_REDUCE(__reduce_min_sync, unsigned, finish_unsigned_min)
EMULATION_REDUCE(__reduce_max_sync, int, finish_max)
EMULATION_REDUCE(__reduce_max_sync, unsigned, finish_unsigned_max)
EMULATION_REDUCE(__reduce_and_sync, unsigned, finish_and)
EMULATION_REDUCE(__reduce_or_sync, unsigned, finish_or)
EMULATION_REDUCE(__reduce_xor_sync, unsigned, finish_xor)
#undef EMULATION_REDUCE

#include "device_functions.h"

namespace emulation {

// A kernel and its arguments, copied when it is launched.
template <typename... Parameters> struct Launched {
    void (*kernel)(Parameters...);
    std::tuple<Parameters...> arguments;
    static void run(const void *launched) {
        const Launched *self = static_cast<const Launched *>(launched);
        std::apply(self->kernel, self->arguments);
    }
};
void check_kernel_pointer(const void *kernel, size_t argument, const void *pointer);
void check_kernel_words(const void *kernel, size_t argument, const void *data, size_t bytes);
template <typename T> void check_argument(const void *kernel, size_t i, const T &value) {
    if constexpr (std::is_pointer_v<T>)
        check_kernel_pointer(kernel, i, (const void *)value);
    else if constexpr (std::is_class_v<T>) {
        // Padding holds what was there before: an old pointer, or seven bytes of one behind a bool.
        alignas(T) unsigned char copy[sizeof(T)];
        memcpy(copy, &value, sizeof value);
        __builtin_clear_padding(reinterpret_cast<T *>(copy));
        check_kernel_words(kernel, i, copy, sizeof copy);
    }
}
cudaError_t launch_kernel(const void *kernel, void (*run)(const void *),
                          std::shared_ptr<const void> launched, dim3 grid, dim3 block,
                          size_t dynamic_shared, cudaStream_t stream);

template <typename... Parameters, size_t... I>
cudaError_t launch_typed(void (*kernel)(Parameters...), dim3 grid, dim3 block, void **arguments,
                         size_t dynamic_shared, cudaStream_t stream, std::index_sequence<I...>) {
    (check_argument((const void *)kernel, I, *static_cast<const Parameters *>(arguments[I])), ...);
    auto launched = std::make_shared<const Launched<Parameters...>>(
        Launched<Parameters...>{kernel, {*static_cast<const Parameters *>(arguments[I])...}});
    return launch_kernel((const void *)kernel, Launched<Parameters...>::run, launched, grid, block,
                         dynamic_shared, stream);
}

} // namespace emulation

// The kernel's own type tells what lies behind `arguments`; the C function of that name is not
// emulated and does not link.
template <typename... Parameters>
static inline cudaError_t cudaLaunchKernel(void (*kernel)(Parameters...), dim3 grid, dim3 block,
                                           void **arguments, size_t dynamic_shared = 0,
                                           cudaStream_t stream = nullptr) {
    return emulation::launch_typed(kernel, grid, block, arguments, dynamic_shared, stream,
                                   std::index_sequence_for<Parameters...>());
}

// nvcc's overload for kernels as they are named in the source.
template <typename... Parameters>
static inline cudaError_t cudaFuncSetAttribute(void (*kernel)(Parameters...),
                                               cudaFuncAttribute attribute, int value) {
    return cudaFuncSetAttribute((const void *)kernel, attribute, value);
}

#endif
