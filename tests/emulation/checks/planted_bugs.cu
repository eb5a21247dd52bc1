// Programs with one mistake each, which the emulated GPU must find, and the same programs without
// it, which must pass.
//
//   planted_bugs
//   every case in child processes; fails if one is not found, or a sound one is not sound
//   planted_bugs CASE planted|sound one case: exits 0 when its results are right
//
// A mistake is found when the child ends with the words of the case on its standard error; or,
// where it has none, when the results are wrong in at least one order of execution, which is all
// that can be asked of a race.
//
// Long because it is a list of mistakes.
#include "emulation_check.h"

#include <sys/wait.h>
#include <unistd.h>

#include <string>

enum { N = 128 };

// What a kernel gets to know: whether to make the mistake.
static __global__ void missing_barrier_kernel(int *x, bool planted) {
    __shared__ int here[N];
    here[threadIdx.x] = x[threadIdx.x];
    if (!planted) __syncthreads();
    x[threadIdx.x] = here[(threadIdx.x + 33) % N];
}
static bool rotated(void (*kernel)(int *, bool), int threads, int distance, bool planted) {
    int *x = device(counting(threads));
    start(nullptr, kernel, dim3(1), dim3(threads), 0, x, planted);
    std::vector<int> got = host(x, (size_t)threads);
    for (int i = 0; i < threads; i++)
        if (got[(size_t)i] != (i + distance) % threads) return false;
    return true;
}
static bool missing_barrier(bool planted) {
    return rotated(missing_barrier_kernel, N, 33, planted);
}

static __global__ void missing_warp_barrier_kernel(int *x, bool planted) {
    __shared__ int here[32];
    here[threadIdx.x] = x[threadIdx.x];
    if (!planted) __syncwarp();
    x[threadIdx.x] = here[(threadIdx.x + 1) % 32];
}
static bool missing_warp_barrier(bool planted) {
    return rotated(missing_warp_barrier_kernel, 32, 1, planted);
}

// Writes the next round's values over those that others still read.
static __global__ void missing_second_barrier_kernel(int *x, bool planted) {
    __shared__ int here[N];
    int mine = x[threadIdx.x];
    for (int round = 0; round < 11; round++) {
        here[threadIdx.x] = mine;
        __syncthreads();
        mine = here[(threadIdx.x + 3) % N];
        if (!planted) __syncthreads();
    }
    x[threadIdx.x] = mine;
}
static bool missing_second_barrier(bool planted) {
    return rotated(missing_second_barrier_kernel, N, 33, planted);
}

static __global__ void order_of_blocks_kernel(int *x, int first) {
    int i = first + (int)blockIdx.x;
    if (threadIdx.x == 0 && i > 0) x[i] = x[i - 1] + 1;
}
static bool order_of_blocks(bool planted) {
    int *x = device(std::vector<int>(20, 0));
    if (planted) start(nullptr, order_of_blocks_kernel, dim3(20), dim3(32), 0, x, 0);
    for (int i = 0; i < 20 && !planted; i++)
        start(nullptr, order_of_blocks_kernel, dim3(1), dim3(32), 0, x, i);
    return host(x, 20) == counting(20);
}

static __global__ void copy_elements(int *out, const int *in, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = in[i];
}
static bool read_beyond_the_end(bool planted) {
    int *out = device<int>(N), *in = device(counting(N - 1));
    start(nullptr, copy_elements, dim3(1), dim3(N), 0, out, (const int *)in, planted ? N : N - 1);
    return host(out, 1)[0] == 0;
}
static bool write_beyond_the_end(bool planted) {
    int *out = device<int>(N - 1), *in = device(counting(N));
    start(nullptr, copy_elements, dim3(1), dim3(N), 0, out, (const int *)in, planted ? N : N - 1);
    return host(out, 1)[0] == 0;
}
static bool read_after_free(bool planted) {
    int *out = device<int>(N), *in = device(counting(N));
    if (planted) SUCCEED(cudaFree(in));
    start(nullptr, copy_elements, dim3(1), dim3(N), 0, out, (const int *)in, N);
    return host(out, N) == counting(N);
}

__device__ static void fill(int *data, int n) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) data[i] = i;
}
static __global__ void beyond_shared_kernel(int *out, int n) {
    __shared__ int here[50];
    fill(here, n);
    __syncthreads();
    out[threadIdx.x] = here[threadIdx.x];
}
static bool beyond_shared_array(bool planted) {
    int *out = device<int>(32);
    start(nullptr, beyond_shared_kernel, dim3(1), dim3(32), 0, out, planted ? 51 : 50);
    return host(out, 32) == counting(32);
}
// A template that is not static, as most kernels are: known by the index.
template <typename T> __global__ void beyond_shared_template_kernel(T *out, int n) {
    __shared__ T here[4][8];
    for (int i = threadIdx.x; i < n; i += blockDim.x) here[i / 8][i % 8] = (T)i;
    __syncthreads();
    out[threadIdx.x] = here[threadIdx.x / 8][threadIdx.x % 8];
}
static bool beyond_shared_array_of_template(bool planted) {
    int *out = device<int>(32);
    start(nullptr, beyond_shared_template_kernel<int>, dim3(1), dim3(32), 0, out,
          planted ? 33 : 32);
    return host(out, 32) == counting(32);
}
static __global__ void beyond_dynamic_shared_kernel(int *out, int n) {
    DYNAMIC_SHARED(int, here);
    fill(here, n);
    __syncthreads();
    out[threadIdx.x] = here[threadIdx.x];
}
static bool beyond_dynamic_shared(bool planted) {
    int *out = device<int>(32);
    start(nullptr, beyond_dynamic_shared_kernel, dim3(1), dim3(32), 50 * sizeof(int), out,
          planted ? 51 : 50);
    return host(out, 32) == counting(32);
}

static __global__ void shuffle_mask_kernel(int *out, bool planted) {
    int lane = threadIdx.x;
    out[lane] = lane;
    if (lane < 16) out[lane] = __shfl_xor_sync(planted ? ALL : 0xffffu, lane, 1) ^ 1;
}
static bool lanes_of_mask_that_never_come(bool planted) {
    return rotated(shuffle_mask_kernel, 32, 0, planted);
}
static __global__ void shuffle_source_kernel(int *out, bool planted) {
    int lane = threadIdx.x;
    out[lane] = lane;
    if (lane < 16) {
        int bits = planted ? 16 : 8;
        out[lane] = __shfl_xor_sync(0xffffu, lane, bits) ^ bits;
    }
}
static bool shuffle_from_outside_the_mask(bool planted) {
    return rotated(shuffle_source_kernel, 32, 0, planted);
}
static __global__ void ended_lanes_kernel(int *out, bool planted) {
    int lane = threadIdx.x;
    out[lane] = lane;
    if (lane >= 20) return;
    if (__ballot_sync(planted ? ALL : 0xfffffu, true) == 0) out[lane] = -1;
}
static bool lanes_of_mask_that_have_ended(bool planted) {
    return rotated(ended_lanes_kernel, 32, 0, planted);
}
static __global__ void own_lane_kernel(int *out, bool planted) {
    int lane = threadIdx.x;
    unsigned mask = planted ? ALL - 1 : ALL;
    out[lane] = __any_sync(mask, lane == 3) ? lane : -1;
}
static bool lane_outside_its_mask(bool planted) {
    return rotated(own_lane_kernel, 32, 0, planted);
}

static __global__ void divergent_barrier_kernel(int *out, bool planted) {
    out[threadIdx.x] = threadIdx.x;
    if (planted && threadIdx.x < 32)
        __syncthreads();
    else
        __syncthreads();
}
static bool divergent_barrier(bool planted) {
    return rotated(divergent_barrier_kernel, N, 0, planted);
}
static __global__ void early_end_kernel(int *out, bool planted) {
    out[threadIdx.x] = threadIdx.x;
    if (planted && threadIdx.x >= N - 1) return;
    __syncthreads();
}
static bool thread_ends_before_barrier(bool planted) {
    return rotated(early_end_kernel, N, 0, planted);
}
static __global__ void barrier_against_warp_kernel(int *out, bool planted) {
    out[threadIdx.x] = threadIdx.x;
    if (planted && threadIdx.x % 32 == 5)
        __syncthreads();
    else
        __syncwarp();
    if (!planted) __syncthreads();
}
static bool barrier_against_warp_barrier(bool planted) {
    return rotated(barrier_against_warp_kernel, N, 0, planted);
}

static __global__ void set_all(int *x, int value) {
    x[threadIdx.x] = value;
}
static bool missing_stream_wait(bool planted) {
    cudaStream_t first, second;
    cudaEvent_t ready;
    SUCCEED(cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking));
    SUCCEED(cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking));
    SUCCEED(cudaEventCreateWithFlags(&ready, cudaEventDisableTiming));
    int *x = device(std::vector<int>(N, 0)), *out = device<int>(N);
    for (int round = 1; round < 5; round++) {
        SUCCEED(cudaDeviceSynchronize());
        start(first, set_all, dim3(1), dim3(N), 0, x, round);
        SUCCEED(cudaEventRecord(ready, first));
        if (!planted) SUCCEED(cudaStreamWaitEvent(second, ready, 0));
        start(second, copy_elements, dim3(1), dim3(N), 0, out, (const int *)x, (int)N);
        if (host(out, N) != std::vector<int>(N, round)) return false;
    }
    return true;
}

// Copies two tiles ahead, and reads the first after it has waited for the older group, or for none.
static __global__ void missing_copy_wait_kernel(int *x, bool planted) {
    __shared__ __align__(16) int tile[2][N];
    int t = threadIdx.x;
    for (int stage = 0; stage < 2; stage++) {
        if (t < N / 4) cp_async_16(&tile[stage][4 * t], x + stage * N + 4 * t, true);
        cp_async_commit();
    }
    int sum = 0;
    for (int stage = 0; stage < 2; stage++) {
        if (stage == 0 || planted)
            cp_async_wait<1>();
        else
            cp_async_wait<0>();
        __syncthreads();
        sum += tile[stage][t];
    }
    x[t] = sum;
}
static bool missing_copy_wait(bool planted) {
    int *x = device(counting(2 * N));
    start(nullptr, missing_copy_wait_kernel, dim3(1), dim3(N), 0, x, planted);
    std::vector<int> got = host(x, N);
    for (int i = 0; i < N; i++)
        if (got[(size_t)i] != 2 * i + N) return false;
    return true;
}
// Each thread waits for its own copies, and reads another's.
static __global__ void missing_barrier_after_copy_kernel(int *x, bool planted) {
    __shared__ __align__(16) int tile[4 * N];
    int t = threadIdx.x;
    cp_async_16(&tile[4 * t], x + 4 * t, true);
    cp_async_commit();
    cp_async_wait<0>();
    if (!planted) __syncthreads();
    x[t] = tile[t];
}
static bool missing_barrier_after_copy(bool planted) {
    int *x = device(counting(4 * N));
    start(nullptr, missing_barrier_after_copy_kernel, dim3(1), dim3(N), 0, x, planted);
    return host(x, N) == counting(N);
}
static __global__ void copy_alignment_kernel(int *x, int shift) {
    __shared__ __align__(16) int tile[4 * 33];
    int t = threadIdx.x;
    cp_async_16(&tile[4 * t], x + 4 * t + shift, true);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    x[t] = tile[t];
}
static bool misaligned_asynchronous_copy(bool planted) {
    int *x = device(counting(4 * 33));
    start(nullptr, copy_alignment_kernel, dim3(1), dim3(32), 0, x, planted ? 1 : 0);
    return host(x, 32) == counting(32);
}
static bool asynchronous_copy_beyond_the_end(bool planted) {
    int *x = device(counting(4 * 32));
    start(nullptr, copy_alignment_kernel, dim3(1), dim3(32), 0, x, planted ? 4 : 0);
    return host(x, 32) == counting(32);
}

static bool host_pointer_as_argument(bool planted) {
    std::vector<int> in = counting(N);
    int *out = device<int>(N);
    const int *from = planted ? in.data() : device(in);
    start(nullptr, copy_elements, dim3(1), dim3(N), 0, out, from, (int)N);
    return host(out, N) == in;
}
struct CopyArguments {
    int n;
    int *out;
    const int *in;
};
static __global__ void copy_by_struct(CopyArguments a) {
    if ((int)threadIdx.x < a.n) a.out[threadIdx.x] = a.in[threadIdx.x];
}
static bool host_pointer_in_a_struct(bool planted) {
    std::vector<int> in = counting(N);
    CopyArguments arguments = {N, device<int>(N), planted ? in.data() : device(in)};
    start(nullptr, copy_by_struct, dim3(1), dim3(N), 0, arguments);
    return host(arguments.out, N) == in;
}
static bool host_reads_device_memory(bool planted) {
    int *x = device(counting(N));
    return (planted ? x[1] : host(x, N)[1]) == 1;
}
static bool pinned_buffer_changed_too_early(bool planted) {
    cudaStream_t stream;
    int *pinned, *x = device<int>(N);
    SUCCEED(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    SUCCEED(cudaMallocHost((void **)&pinned, N * sizeof(int)));
    for (int i = 0; i < N; i++) pinned[i] = i;
    SUCCEED(cudaMemcpyAsync(x, pinned, N * sizeof(int), cudaMemcpyHostToDevice, stream));
    if (!planted) SUCCEED(cudaStreamSynchronize(stream));
    memset(pinned, 0, N * sizeof(int));
    SUCCEED(cudaStreamSynchronize(stream));
    return host(x, N) == counting(N);
}
// CUDA does not promise that an asynchronous copy has read ordinary memory when it returns.
static bool pageable_buffer_changed_too_early(bool planted) {
    setenv("MOETRAIN_EMULATION_PAGEABLE", "late", 1);
    cudaStream_t stream;
    int *x = device<int>(N);
    std::vector<int> pageable = counting(N);
    SUCCEED(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    SUCCEED(cudaMemcpyAsync(x, pageable.data(), N * sizeof(int), cudaMemcpyHostToDevice, stream));
    if (!planted) SUCCEED(cudaStreamSynchronize(stream));
    pageable.assign(N, 0);
    SUCCEED(cudaStreamSynchronize(stream));
    return host(x, N) == counting(N);
}
static bool unified_memory_changed_too_early(bool planted) {
    setenv("MOETRAIN_EMULATION_UNIFIED", "1", 1);
    cudaDeviceProp properties;
    SUCCEED(cudaGetDeviceProperties(&properties, 0));
    EXPECT(properties.pageableMemoryAccess);
    return pageable_buffer_changed_too_early(planted);
}
// The first stream is so busy that it comes last; the second does not wait for it.
static bool no_wait_for_a_late_stream(bool planted) {
    setenv("MOETRAIN_EMULATION_LATE_STREAM", "1", 1);
    cudaStream_t first, second;
    cudaEvent_t ready;
    SUCCEED(cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking));
    SUCCEED(cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking));
    SUCCEED(cudaEventCreateWithFlags(&ready, cudaEventDisableTiming));
    int *x = device(std::vector<int>(N, 0)), *out = device<int>(N);
    SUCCEED(cudaDeviceSynchronize());
    start(first, set_all, dim3(1), dim3(N), 0, x, 7);
    SUCCEED(cudaEventRecord(ready, first));
    if (!planted) SUCCEED(cudaStreamWaitEvent(second, ready, 0));
    start(second, copy_elements, dim3(1), dim3(N), 0, out, (const int *)x, (int)N);
    return host(out, N) == std::vector<int>(N, 7);
}
static bool result_read_before_the_copy(bool planted) {
    cudaStream_t stream;
    int *x = device(counting(N));
    std::vector<int> got(N);
    SUCCEED(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    SUCCEED(cudaMemcpyAsync(got.data(), x, N * sizeof(int), cudaMemcpyDeviceToHost, stream));
    if (!planted) SUCCEED(cudaStreamSynchronize(stream));
    bool right = got == counting(N);
    SUCCEED(cudaDeviceSynchronize());
    return right;
}
static bool copy_beyond_the_end(bool planted) {
    int *x = device(counting(N));
    std::vector<int> got(N + 1);
    size_t bytes = (planted ? N + 1 : N) * sizeof(int);
    SUCCEED(cudaMemcpy(got.data(), x, bytes, cudaMemcpyDeviceToHost));
    return got[1] == 1;
}
static bool copy_of_the_wrong_kind(bool planted) {
    int *x = device(counting(N)), *y = device<int>(N);
    SUCCEED(cudaMemcpy(y, x, N * sizeof(int),
                       planted ? cudaMemcpyHostToDevice : cudaMemcpyDeviceToDevice));
    return host(y, N) == counting(N);
}

static __global__ void uninitialised_shared_kernel(float *out, bool planted) {
    __shared__ float total;
    if (!planted && threadIdx.x == 0) total = 0;
    __syncthreads();
    atomicAdd(&total, 1.0f);
    __syncthreads();
    out[blockIdx.x] = total;
}
static bool uninitialised_shared(bool planted) {
    float *out = device<float>(2);
    start(nullptr, uninitialised_shared_kernel, dim3(2), dim3(N), 0, out, planted);
    return host(out, 2) == std::vector<float>(2, N);
}
static __global__ void add_one(float *x) {
    x[threadIdx.x] += 1.0f;
}
static bool uninitialised_device_memory(bool planted) {
    float *x = device<float>(N);
    if (!planted) SUCCEED(cudaMemset(x, 0, N * sizeof(float)));
    start(nullptr, add_one, dim3(1), dim3(N), 0, x);
    return host(x, N) == std::vector<float>(N, 1.0f);
}

static bool too_many_threads(bool planted) {
    int *x = device<int>(1056);
    start(nullptr, set_all, dim3(1), dim3(planted ? 1056 : 1024), 0, x, 5);
    return host(x, 1)[0] == 5;
}
static bool shared_memory_not_asked_for(bool planted) {
    int *x = device<int>(1);
    if (!planted)
        SUCCEED(cudaFuncSetAttribute(set_all, cudaFuncAttributeMaxDynamicSharedMemorySize, 64000));
    start(nullptr, set_all, dim3(1), dim3(1), 64000, x, 5);
    return host(x, 1)[0] == 5;
}
static bool more_shared_memory_than_there_is(bool planted) {
    int *x = device<int>(1), bytes = (227 << 10) + (planted ? 16 : 0);
    cudaFuncSetAttribute(set_all, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    start(nullptr, set_all, dim3(1), dim3(1), (size_t)bytes, x, 5);
    return host(x, 1)[0] == 5;
}
static __global__ void vector_load_kernel(float *x, int shift) {
    float4 v = *reinterpret_cast<const float4 *>(x + shift);
    x[0] = v.x + v.y + v.z + v.w;
}
static bool misaligned_vector_load(bool planted) {
    float *x = device(std::vector<float>(16, 1.0f));
    start(nullptr, vector_load_kernel, dim3(1), dim3(1), 0, x, planted ? 2 : 4);
    return host(x, 1)[0] == 4.0f;
}
static __global__ void matrix_row_kernel(uint32_t *out, int shift) {
    __shared__ __align__(16) uint16_t rows[32][8];
    uint32_t r[4];
    for (int i = 0; i < 8; i++) rows[threadIdx.x][i] = (uint16_t)threadIdx.x;
    __syncwarp();
    ldmatrix_x4(r, reinterpret_cast<char *>(rows[threadIdx.x]) + shift);
    out[threadIdx.x] = r[0] & 0xffff;
}
static bool misaligned_matrix_row(bool planted) {
    uint32_t *out = device<uint32_t>(32);
    start(nullptr, matrix_row_kernel, dim3(1), dim3(32), 0, out, planted ? 8 : 0);
    return host(out, 32)[31] == 7;
}
static bool matrix_row_beyond_shared(bool planted) {
    uint32_t *out = device<uint32_t>(32);
    start(nullptr, matrix_row_kernel, dim3(1), dim3(32), 0, out, planted ? 16 : 0);
    return host(out, 32)[31] == 7;
}

struct Case {
    const char *name;
    bool (*run)(bool planted);
    const char *words; // NULL: a wrong result
    bool needs_sanitizers;
};
#define CASE(function, ...)                                                                        \
    { #function, function, __VA_ARGS__ }
static const Case cases[] = {
    CASE(missing_barrier, nullptr, false),
    CASE(missing_warp_barrier, nullptr, false),
    CASE(missing_second_barrier, nullptr, false),
    CASE(order_of_blocks, nullptr, false),
    CASE(read_beyond_the_end, "heap-buffer-overflow", true),
    CASE(write_beyond_the_end, "heap-buffer-overflow", true),
    CASE(read_after_free, "is not device memory", false),
    CASE(beyond_shared_array, "global-buffer-overflow", true),
    CASE(beyond_shared_array_of_template, "out of bounds", true),
    CASE(beyond_dynamic_shared, "use-after-poison", true),
    CASE(lanes_of_mask_that_never_come, "ended", false),
    CASE(shuffle_from_outside_the_mask, "which is not in mask", false),
    CASE(lanes_of_mask_that_have_ended, "ended", false),
    CASE(lane_outside_its_mask, "which is not in mask", false),
    CASE(divergent_barrier, "divergent __syncthreads", false),
    CASE(thread_ends_before_barrier, "ended", false),
    CASE(barrier_against_warp_barrier, "wait", false),
    CASE(missing_stream_wait, nullptr, false),
    CASE(missing_copy_wait, nullptr, false),
    CASE(missing_barrier_after_copy, nullptr, false),
    CASE(misaligned_asynchronous_copy, "16-byte aligned", false),
    CASE(asynchronous_copy_beyond_the_end, "outside of device memory", false),
    CASE(host_pointer_as_argument, "which is not device memory", false),
    CASE(host_pointer_in_a_struct, "host memory", true),
    CASE(host_reads_device_memory, "use-after-poison", true),
    CASE(pinned_buffer_changed_too_early, nullptr, false),
    CASE(pageable_buffer_changed_too_early, nullptr, false),
    CASE(unified_memory_changed_too_early, nullptr, false),
    CASE(no_wait_for_a_late_stream, nullptr, false),
    CASE(result_read_before_the_copy, nullptr, false),
    CASE(copy_beyond_the_end, "beyond the end", false),
    CASE(copy_of_the_wrong_kind, "against the kind", false),
    CASE(uninitialised_shared, nullptr, false),
    CASE(uninitialised_device_memory, nullptr, false),
    CASE(too_many_threads, "1056,1,1 threads", false),
    CASE(shared_memory_not_asked_for, "it may have 49152", false),
    CASE(more_shared_memory_than_there_is, "it may have 49152", false),
    CASE(misaligned_vector_load, "misaligned address", true),
    CASE(misaligned_matrix_row, "16-byte aligned", false),
    CASE(matrix_row_beyond_shared, "outside of shared memory", false),
};

// The exit code of a child that runs the case, and what it wrote to standard error.
static int run_child(const char *program, const Case &which, bool planted, const char *seed,
                     std::string *errors) {
    int ends[2];
    EXPECT(pipe(ends) == 0);
    pid_t child = fork();
    EXPECT(child >= 0);
    if (child == 0) {
        setenv("MOETRAIN_EMULATION_SEED", seed, 1);
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        close(ends[1]);
        execl(program, program, which.name, planted ? "planted" : "sound", (char *)nullptr);
        _exit(126);
    }
    close(ends[1]);
    char text[4096];
    errors->clear();
    for (ssize_t got; (got = read(ends[0], text, sizeof text)) > 0;)
        errors->append(text, (size_t)got);
    close(ends[0]);
    int status;
    EXPECT(waitpid(child, &status, 0) == child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int main(int argc, char **argv) {
    if (argc == 3) {
        for (const Case &which : cases)
            if (strcmp(which.name, argv[1]) == 0)
                return which.run(strcmp(argv[2], "planted") == 0) ? 0 : 1;
        return 125;
    }
#if defined(__SANITIZE_ADDRESS__)
    const bool sanitizers = true;
#else
    const bool sanitizers = false;
#endif
    const char *seeds[] = {"1", "2", "forward", "reverse"};
    int wrong = 0, run = 0;
    std::string errors;
    for (const Case &which : cases) {
        if (which.needs_sanitizers && !sanitizers) {
            printf("skipped, without sanitizers: %s\n", which.name);
            continue;
        }
        run++;
        bool found = false;
        for (const char *seed : seeds) {
            int code = run_child("/proc/self/exe", which, false, seed, &errors);
            if (code != 0) {
                printf("%s: sound, seed %s: exit %d\n%s\n", which.name, seed, code, errors.c_str());
                wrong++;
            }
            if (found && !which.words) continue;
            code = run_child("/proc/self/exe", which, true, seed, &errors);
            if (which.words) {
                found = code != 0 && errors.find(which.words) != std::string::npos;
                if (!found) break; // no matter of chance: under every order
            } else {
                found = code == 1;
            }
        }
        if (!found) {
            printf("%s: not found; the last child said: %s\n", which.name, errors.c_str());
            wrong++;
        }
    }
    printf("%d planted bugs, %d wrong\n", run, wrong);
    return wrong != 0;
}
