// What the checks of the emulated GPU share: starting a kernel, and device memory that knows its
// size.
#ifndef MOETRAIN_TESTS_EMULATION_CHECKS_EMULATION_CHECK_H
#define MOETRAIN_TESTS_EMULATION_CHECKS_EMULATION_CHECK_H

#include <stdlib.h>

#include <vector>

#include "kernels/cuda/ptx.cuh"

static const unsigned ALL = 0xffffffffu;

// Ends the process with the place, as a check that failed.
#define EXPECT(condition)                                                                          \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)
#define SUCCEED(call) EXPECT((call) == cudaSuccess)

template <typename... P, typename... A>
static void start(cudaStream_t stream, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared,
                  A... arguments) {
    std::tuple<P...> values(static_cast<P>(arguments)...);
    std::apply(
        [&](auto &...value) {
            void *pointers[] = {(void *)&value...};
            SUCCEED(cudaLaunchKernel(kernel, grid, block, pointers, shared, stream));
        },
        values);
}

// n elements of device memory, as cudaMalloc leaves them or with these values.
template <typename T> static T *device(size_t n) {
    void *data;
    SUCCEED(cudaMalloc(&data, n * sizeof(T)));
    return static_cast<T *>(data);
}
template <typename T> static T *device(const std::vector<T> &values) {
    T *data = device<T>(values.size());
    SUCCEED(cudaMemcpy(data, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
    return data;
}
// Waits for everything and copies n elements back.
template <typename T> static std::vector<T> host(const T *data, size_t n) {
    std::vector<T> values(n);
    SUCCEED(cudaDeviceSynchronize());
    SUCCEED(cudaMemcpy(values.data(), data, n * sizeof(T), cudaMemcpyDeviceToHost));
    return values;
}
static inline std::vector<int> counting(int n) {
    std::vector<int> values((size_t)n);
    for (int i = 0; i < n; i++) values[(size_t)i] = i;
    return values;
}

#endif
