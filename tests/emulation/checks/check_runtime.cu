// Sound programs on the emulated runtime: streams, events, copies, memory, devices and errors. Run
// under several orders.
#include "emulation_check.h"

static __global__ void add_to(int *x, int n, int amount) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] += amount;
}
static __global__ void double_from(int *out, const int *in, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = 2 * in[i];
}
enum { N = 300, BLOCK = 64 };
static const dim3 GRID((N + BLOCK - 1) / BLOCK);

static void streams_keep_their_order_and_obey_events() {
    cudaStream_t first, second;
    cudaEvent_t ready, taken;
    SUCCEED(cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking));
    SUCCEED(cudaStreamCreateWithPriority(&second, cudaStreamNonBlocking, -1));
    SUCCEED(cudaEventCreateWithFlags(&ready, cudaEventDisableTiming));
    SUCCEED(cudaEventCreateWithFlags(&taken, cudaEventDisableTiming));
    int *x = device(std::vector<int>(N, 1)), *y = device<int>(N * 20);
    for (int round = 0; round < 20; round++) {
        SUCCEED(cudaStreamWaitEvent(first, taken, 0)); // nothing, as long as it was never recorded
        start(first, add_to, GRID, dim3(BLOCK), 0, x, N, 1);
        SUCCEED(cudaEventRecord(ready, first));
        SUCCEED(cudaStreamWaitEvent(second, ready, 0));
        start(second, double_from, GRID, dim3(BLOCK), 0, y + round * N, (const int *)x, N);
        SUCCEED(cudaEventRecord(taken, second));
    }
    SUCCEED(cudaStreamSynchronize(second));
    EXPECT(cudaEventQuery(taken) == cudaSuccess && cudaStreamQuery(first) == cudaSuccess);
    std::vector<int> got = host(y, N * 20);
    for (int round = 0; round < 20; round++)
        for (int i = 0; i < N; i++) EXPECT(got[(size_t)(round * N + i)] == 2 * (round + 2));
    SUCCEED(cudaEventDestroy(ready));
    SUCCEED(cudaEventDestroy(taken));
    SUCCEED(cudaStreamDestroy(first));
    SUCCEED(cudaStreamDestroy(second));
}

// Streams that are not cudaStreamNonBlocking and stream 0 wait for each other.
static void stream_0_waits_for_plain_streams() {
    cudaStream_t plain;
    SUCCEED(cudaStreamCreate(&plain));
    int *x = device(std::vector<int>(N, 1)), *y = device<int>(N);
    start(plain, add_to, GRID, dim3(BLOCK), 0, x, N, 4);
    start(nullptr, double_from, GRID, dim3(BLOCK), 0, y, (const int *)x, N);
    start(plain, add_to, GRID, dim3(BLOCK), 0, y, N, 100);
    EXPECT(host(y, N) == std::vector<int>(N, 110));
    SUCCEED(cudaStreamDestroy(plain));
}

static void nothing_runs_before_somebody_waits() {
    cudaStream_t stream;
    SUCCEED(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    int *x = device(std::vector<int>(N, 1)), *pinned, late = 0;
    SUCCEED(cudaMallocHost((void **)&pinned, N * sizeof(int)));
    for (int i = 0; i < 100; i++) {
        pinned[0] = -1;
        SUCCEED(cudaMemcpyAsync(pinned, x, sizeof(int), cudaMemcpyDeviceToHost, stream));
        late += pinned[0] == -1;
        SUCCEED(cudaStreamSynchronize(stream));
        EXPECT(pinned[0] == 1);
    }
    EXPECT(late > 50);
    SUCCEED(cudaFreeHost(pinned));
    SUCCEED(cudaStreamDestroy(stream));
}

// Pageable memory is read when the copy is called, pinned memory when it runs.
static void copies_of_pageable_and_pinned_memory() {
    cudaStream_t stream;
    SUCCEED(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    int *x = device<int>(N), *pinned;
    SUCCEED(cudaMallocHost((void **)&pinned, N * sizeof(int)));
    for (int round = 0; round < 10; round++) {
        std::vector<int> pageable((size_t)N, round), back((size_t)N);
        size_t bytes = N * sizeof(int);
        SUCCEED(cudaMemcpyAsync(x, pageable.data(), bytes, cudaMemcpyHostToDevice, stream));
        std::fill(pageable.begin(), pageable.end(), -7);
        SUCCEED(cudaMemcpyAsync(back.data(), x, bytes, cudaMemcpyDeviceToHost, stream));
        SUCCEED(cudaMemcpyAsync(pinned, x, bytes, cudaMemcpyDeviceToHost, stream));
        SUCCEED(cudaStreamSynchronize(stream));
        EXPECT(back == std::vector<int>(N, round));
        EXPECT(std::vector<int>(pinned, pinned + N) == back);
        pinned[5] = 1000;
        SUCCEED(cudaMemcpyAsync(x, pinned, bytes, cudaMemcpyDefault, stream));
        SUCCEED(cudaStreamSynchronize(stream));
        EXPECT(host(x, N)[5] == 1000);
        SUCCEED(cudaMemsetAsync(x, 0, bytes, stream));
        SUCCEED(cudaStreamSynchronize(stream));
        EXPECT(host(x, N) == std::vector<int>(N, 0));
    }
    SUCCEED(cudaFreeHost(pinned));
    SUCCEED(cudaStreamDestroy(stream));
}

static void memory_ends() {
    size_t before, after, total;
    void *data, *more;
    SUCCEED(cudaMemGetInfo(&before, &total));
    EXPECT(total == (size_t)64 << 20 && before <= total);
    SUCCEED(cudaMalloc(&data, 10 << 20));
    SUCCEED(cudaMemGetInfo(&after, &total));
    EXPECT(before - after == 10 << 20);
    EXPECT(cudaMalloc(&more, before) == cudaErrorMemoryAllocation && !more);
    EXPECT(cudaPeekAtLastError() == cudaErrorMemoryAllocation);
    EXPECT(cudaGetLastError() == cudaErrorMemoryAllocation && cudaGetLastError() == cudaSuccess);
    SUCCEED(cudaFree(data));
    SUCCEED(cudaMemGetInfo(&after, &total));
    EXPECT(before == after);
    SUCCEED(cudaFree(nullptr));
}

static void events_measure_time() {
    cudaEvent_t start_event, end_event, without;
    float milliseconds = -1;
    SUCCEED(cudaEventCreate(&start_event));
    SUCCEED(cudaEventCreate(&end_event));
    SUCCEED(cudaEventCreateWithFlags(&without, cudaEventDisableTiming));
    SUCCEED(cudaEventRecord(start_event, nullptr));
    int *x = device(std::vector<int>(N, 1));
    start(nullptr, add_to, GRID, dim3(BLOCK), 0, x, N, 1);
    SUCCEED(cudaEventRecord(end_event, nullptr));
    SUCCEED(cudaEventRecord(without, nullptr));
    SUCCEED(cudaEventSynchronize(end_event));
    SUCCEED(cudaEventElapsedTime(&milliseconds, start_event, end_event));
    EXPECT(milliseconds >= 0 && milliseconds < 60e3f);
    EXPECT(cudaEventElapsedTime(&milliseconds, start_event, without) ==
           cudaErrorInvalidResourceHandle);
}

static void devices_are_as_the_environment_says() {
    int count, device_now, value;
    cudaDeviceProp properties;
    EXPECT(cudaGetDeviceCount(&count) == cudaSuccess && count == 8);
    SUCCEED(cudaSetDevice(7));
    EXPECT(cudaSetDevice(8) == cudaErrorInvalidDevice);
    EXPECT(cudaGetDevice(&device_now) == cudaSuccess && device_now == 7);
    SUCCEED(cudaGetDeviceProperties(&properties, 7));
    EXPECT(properties.major == 9 && properties.sharedMemPerBlockOptin == 227 << 10);
    SUCCEED(cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, 7));
    EXPECT(value == properties.multiProcessorCount);
    setenv("MOETRAIN_EMULATION_DEVICES", "0", 1);
    EXPECT(cudaGetDeviceCount(&count) == cudaErrorNoDevice && count == 0);
    setenv("MOETRAIN_EMULATION_DEVICES", "driver", 1);
    EXPECT(cudaGetDeviceCount(&count) == cudaErrorInsufficientDriver);
    EXPECT(strstr(cudaGetErrorString(cudaErrorInsufficientDriver), "driver"));
    unsetenv("MOETRAIN_EMULATION_DEVICES");
    SUCCEED(cudaSetDevice(0));
    cudaGetLastError();
}

static void injected_failures_come_when_asked_for() {
    int version;
    for (int call = 1; call <= 4; call++)
        EXPECT((cudaRuntimeGetVersion(&version) == cudaSuccess) == (call != 2 && call != 3));
    EXPECT(version == CUDART_VERSION);
    cudaGetLastError();
    EXPECT(emulation::fails("a library's function") == false);
    EXPECT(emulation::fails("another") == true && emulation::fails("another") == false);
}

static void polled_work_lets_other_streams_go_on() {
    cudaStream_t waiting, going;
    SUCCEED(cudaStreamCreateWithFlags(&waiting, cudaStreamNonBlocking));
    SUCCEED(cudaStreamCreateWithFlags(&going, cudaStreamNonBlocking));
    int *x = device(std::vector<int>(1, 0)), polls = 0;
    emulation::enqueue_polled(waiting, "a poll", [&] { return polls++, *x == 3; });
    for (int i = 0; i < 3; i++) start(going, add_to, dim3(1), dim3(1), 0, x, 1, 1);
    SUCCEED(cudaStreamSynchronize(waiting));
    EXPECT(polls >= 1 && cudaStreamQuery(going) == cudaSuccess);
    EXPECT(emulation::is_device_memory(x, 4) && !emulation::is_device_memory(x, 5));
    SUCCEED(cudaStreamDestroy(waiting));
    SUCCEED(cudaStreamDestroy(going));
}

struct Gaps {
    bool one;
    const int *in;
    struct {
        int *out;
        char kind;
    } inner[2];
    bool last;
};
static __global__ void copy_through_gaps(Gaps a) {
    a.inner[1].out[threadIdx.x] = a.in[threadIdx.x] + a.one + a.inner[1].kind + a.last;
}
// Whatever lies between the members of an argument is nobody's pointer.
static void padding_of_arguments_may_hold_anything() {
    std::vector<int> heap(N);
    // Its lowest byte is 0: together with a member that is false or 0 the padding above still makes
    // up this address.
    uintptr_t address = ((uintptr_t)heap.data() + 255) / 256 * 256;
    int *in = device(counting(N)), *out = device<int>(N);
    alignas(Gaps) unsigned char bytes[sizeof(Gaps)];
    for (size_t at = 0; at < sizeof bytes; at += sizeof address)
        memcpy(bytes + at, &address, sizeof address);
    auto *a = reinterpret_cast<Gaps *>(bytes);
    a->in = in, a->inner[0].out = a->inner[1].out = out;
    a->one = a->last = false, a->inner[0].kind = a->inner[1].kind = 0;
    void *arguments[] = {bytes};
    SUCCEED(cudaLaunchKernel(copy_through_gaps, dim3(1), dim3(N), arguments, 0, nullptr));
    EXPECT(host(out, N) == counting(N));
}

int main() {
    setenv("MOETRAIN_EMULATION_MEMORY", "67108864", 1);
    setenv("MOETRAIN_EMULATION_FAIL",
           "cudaRuntimeGetVersion:2,another:1,cudaRuntimeGetVersion:3,cudaFree:99999", 1);
    streams_keep_their_order_and_obey_events();
    stream_0_waits_for_plain_streams();
    nothing_runs_before_somebody_waits();
    copies_of_pageable_and_pinned_memory();
    memory_ends();
    events_measure_time();
    devices_are_as_the_environment_says();
    injected_failures_come_when_asked_for();
    polled_work_lets_other_streams_go_on();
    padding_of_arguments_may_hold_anything();
    return 0;
}
