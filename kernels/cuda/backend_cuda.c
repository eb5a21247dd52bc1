#include "kernels/backend.h"

#include <nccl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/limits.h"
#include "kernels/cuda/matmul_plan.h"

// What NVIDIA recommends for Hopper (32 MiB); cuBLAS takes less on older GPUs.
static const size_t LIBRARY_WORKSPACE_BYTES = (size_t)32 << 20;
enum { LEAST_CAPABILITY = 80 };                     // bf16 tensor cores and cp.async
static const size_t UPLOAD_BYTES = (size_t)2 << 20; // of one of the UPLOADS
// What cuda_workspace grows to: trees of parts, each level of which holds 16 MiB (matmul_cuda.c) or
// a little more (grouped_matmul_cuda.cu), and 128 MiB for what sorts and scans.
static const size_t WORKSPACE_BYTES = (size_t)384 << 20;

// ---- opening ------------------------------------------------------------------------------------

static bool available(Error *err) {
    int count = 0, driver = 0, runtime = 0;
    cudaError_t code = cudaGetDeviceCount(&count);
    if (code == cudaSuccess && count > 0) return true;
    (void)cudaGetLastError(); // the failure is answered here and must not show up in the next call
    if (code != cudaErrorInsufficientDriver || cudaDriverGetVersion(&driver) != cudaSuccess ||
        driver == 0)
        return error_set(
            err, EXIT_COMMUNICATION,
            "device: cuda, but this machine has no usable NVIDIA GPU (%s); use device: cpu, "
            "or check nvidia-smi and CUDA_VISIBLE_DEVICES",
            code == cudaSuccess ? "no device" : cudaGetErrorString(code));
    (void)cudaRuntimeGetVersion(&runtime);
    return error_set(
        err, EXIT_COMMUNICATION,
        "device: cuda, but the NVIDIA driver supports CUDA %d.%d and this program needs "
        "%d.%d; update the driver or use device: cpu",
        driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
}

static bool open_uploads(CudaState *state) {
    for (int i = 0; i < UPLOADS; i++) {
        struct CudaUpload *place = &state->uploads[i];
        if (cudaHostAlloc(&place->pinned, UPLOAD_BYTES, cudaHostAllocDefault) != cudaSuccess) {
            place->pinned = NULL;
            (void)cudaGetLastError(); // answered by the caller
            return false;
        }
        CUDA_CHECK(cudaEventCreateWithFlags(&place->sent, cudaEventDisableTiming));
    }
    return true;
}

// What the bits of results may depend on.
static void describe_kind(Device *dev, const struct cudaDeviceProp *properties) {
    int driver = 0, runtime = 0, blas = 0, nccl = 0;
    CUDA_CHECK(cudaDriverGetVersion(&driver));
    CUDA_CHECK(cudaRuntimeGetVersion(&runtime));
    CUBLAS_CHECK(cublasGetVersion(cuda_state(dev)->blas, &blas));
    if (ncclGetVersion(&nccl) != ncclSuccess) nccl = 0;
    snprintf(dev->kind, sizeof dev->kind,
             "%.100s, sm_%d, %d SMs, driver CUDA %d.%d, CUDA %d.%d, cuBLAS %d.%d.%d, NCCL %d.%d.%d",
             properties->name, cuda_state(dev)->compute_capability, properties->multiProcessorCount,
             driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10, blas / 10000,
             blas / 100 % 100, blas % 100, nccl / 10000, nccl / 100 % 100, nccl % 100);
}

// Everything of one GPU. The error names the call that failed.
static bool open_gpu(Device *dev, int ordinal, Error *err) {
    CudaState *state = cuda_state(dev);
    struct cudaDeviceProp properties;
    state->ordinal = ordinal;
    cudaError_t code = cudaSetDevice(ordinal);
    if (code == cudaSuccess) code = cudaGetDeviceProperties(&properties, ordinal);
    int lowest = 0, highest = 0; // a higher priority is a lower number
    if (code == cudaSuccess) code = cudaDeviceGetStreamPriorityRange(&lowest, &highest);
    const struct {
        cudaStream_t *stream;
        int priority;
    } streams[] = {{&state->compute, lowest},
                   {&state->exchange, highest},
                   {&state->sums, highest < lowest - 1 ? highest + 1 : highest}};
    for (int i = 0; i < 3 && code == cudaSuccess; i++)
        code = cudaStreamCreateWithPriority(streams[i].stream, cudaStreamNonBlocking,
                                            streams[i].priority);
    if (code != cudaSuccess)
        return error_set(
            err, EXIT_COMMUNICATION,
            "GPU %d cannot be opened: %s; another process may hold it exclusively, or it "
            "has failed (nvidia-smi)",
            ordinal, cudaGetErrorString(code));
    memcpy(dev->identity, &properties.uuid, sizeof dev->identity);
    state->multiprocessors = properties.multiProcessorCount;
    state->compute_capability = properties.major * 10 + properties.minor;
    if (state->compute_capability < LEAST_CAPABILITY)
        return error_set(
            err, EXIT_COMMUNICATION,
            "GPU %d (%s) has compute capability %d.%d; this program needs %d.%d (Ampere) "
            "or newer; use device: cpu",
            ordinal, properties.name, properties.major, properties.minor, LEAST_CAPABILITY / 10,
            LEAST_CAPABILITY % 10);
    state->library_workspace_bytes = LIBRARY_WORKSPACE_BYTES;
    if (cudaMalloc(&state->library_workspace, state->library_workspace_bytes) != cudaSuccess)
        return error_set(err, EXIT_IO, "GPU %d has no memory for 32 MiB of cuBLAS workspace",
                         ordinal);
    if (!open_uploads(state))
        return error_set(err, EXIT_IO,
                         "the host gives no %zu MiB of pinned memory for GPU %d; look at ulimit -l "
                         "and the memory limit of the container",
                         UPLOADS * UPLOAD_BYTES >> 20, ordinal);
    CUBLAS_CHECK(cublasLtCreate(&state->lt));
    CUBLAS_CHECK(cublasCreate(&state->blas));
    CUBLAS_CHECK(cublasSetStream(state->blas, state->compute));
    CUBLAS_CHECK(
        cublasSetWorkspace(state->blas, state->library_workspace, state->library_workspace_bytes));
    CUBLAS_CHECK(cublasSetMathMode(state->blas, CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION));
    dev->reserve_bytes = (size_t)GPU_RESERVE_MIB << 20;
    CHECK(WORKSPACE_BYTES + matmul_trial_bytes() <= dev->reserve_bytes,
          "GPU_RESERVE_MIB is too small");
    describe_kind(dev, &properties);
    return true;
}

static void close_backend(Device *dev) {
    CudaState *state = cuda_state(dev);
    if (!state) return;
    if (state->compute) CUDA_CHECK(cudaStreamSynchronize(state->compute));
    if (state->exchange) CUDA_CHECK(cudaStreamSynchronize(state->exchange));
    if (state->sums) CUDA_CHECK(cudaStreamSynchronize(state->sums));
    matmul_plans_free(state);
    grouped_call_free(state);
    for (int i = 0; i < UPLOADS; i++) {
        if (state->uploads[i].sent) CUDA_CHECK(cudaEventDestroy(state->uploads[i].sent));
        if (state->uploads[i].pinned) CUDA_CHECK(cudaFreeHost(state->uploads[i].pinned));
    }
    if (state->blas) CUBLAS_CHECK(cublasDestroy(state->blas));
    if (state->lt) CUBLAS_CHECK(cublasLtDestroy(state->lt));
    // A GPU that could not be opened fails every call that would make a context, cudaFree(NULL)
    // too.
    if (state->workspace) CUDA_CHECK(cudaFree(state->workspace));
    if (state->library_workspace) CUDA_CHECK(cudaFree(state->library_workspace));
    if (state->compute) CUDA_CHECK(cudaStreamDestroy(state->compute));
    if (state->exchange) CUDA_CHECK(cudaStreamDestroy(state->exchange));
    if (state->sums) CUDA_CHECK(cudaStreamDestroy(state->sums));
    free(state);
    dev->state = NULL;
}

static bool open_backend(Device *dev, int local_rank, int local_size, Error *err) {
    int count = 0;
    CUDA_CHECK(cudaGetDeviceCount(&count));
    // Launchers such as Slurm can show each rank a GPU of its own, as number 0.
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    bool assigned = count == 1 && visible && visible[0];
    if (local_size > count && !assigned)
        return error_set(
            err, EXIT_COMMUNICATION,
            "%d ranks on this host but %d GPU%s: one rank takes one GPU; start %d rank%s "
            "a host, check CUDA_VISIBLE_DEVICES, or use device: cpu",
            local_size, count, count == 1 ? "" : "s", count, count == 1 ? "" : "s");
    dev->state = calloc(1, sizeof(CudaState));
    CHECK_MEMORY(dev->state, "no memory for a device");
    if (open_gpu(dev, assigned ? 0 : local_rank, err)) return true;
    close_backend(dev);
    return false;
}

static void describe(const Device *dev, char *text, size_t bytes) {
    size_t free_now = 0, total = 0;
    CUDA_CHECK(cudaMemGetInfo(&free_now, &total));
    snprintf(text, bytes, "GPU %d of %.0f GiB: %s", cuda_state(dev)->ordinal,
             (double)total / 1073741824.0, dev->kind);
}

// ---- memory -------------------------------------------------------------------------------------

static void *allocate(Device *dev, size_t bytes) {
    void *data = NULL;
    if (cudaMalloc(&data, bytes) != cudaSuccess) {
        (void)cudaGetLastError(); // answered by the caller
        return NULL;
    }
    CUDA_CHECK(cudaMemsetAsync(data, 0, bytes, cuda_state(dev)->compute));
    return data;
}

static void release(Device *dev, void *data, size_t bytes) {
    (void)dev, (void)bytes;
    CUDA_CHECK(cudaFree(data)); // waits for the device
}

static size_t free_bytes(Device *dev) {
    (void)dev;
    size_t free_now = 0, total = 0;
    CUDA_CHECK(cudaMemGetInfo(&free_now, &total));
    return free_now;
}

// Through pinned memory: CUDA promises for no other that a copy is asynchronous and yet has read
// its source when the call returns. Waits only where UPLOADS copies are on their way.
static void upload(Device *dev, void *to, const void *from, size_t bytes) {
    CudaState *state = cuda_state(dev);
    for (size_t done = 0; done < bytes;) {
        struct CudaUpload *place = &state->uploads[state->next_upload];
        size_t piece = bytes - done < UPLOAD_BYTES ? bytes - done : UPLOAD_BYTES;
        CUDA_CHECK(cudaEventSynchronize(place->sent)); // nothing before its first record
        memcpy(place->pinned, (const char *)from + done, piece);
        CUDA_CHECK(cudaMemcpyAsync((char *)to + done, place->pinned, piece, cudaMemcpyHostToDevice,
                                   state->compute));
        CUDA_CHECK(cudaEventRecord(place->sent, state->compute));
        state->next_upload = (state->next_upload + 1) % UPLOADS;
        done += piece;
    }
}

static void download(Device *dev, void *to, const void *from, size_t bytes) {
    cudaStream_t stream = cuda_state(dev)->compute;
    CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream));
    CUDA_CHECK(cudaStreamSynchronize(stream));
}

static void synchronize(Device *dev) {
    CUDA_CHECK(cudaStreamSynchronize(cuda_state(dev)->compute));
    CUDA_CHECK(cudaStreamSynchronize(cuda_state(dev)->exchange));
    CUDA_CHECK(cudaStreamSynchronize(cuda_state(dev)->sums));
}

// ---- the table ----------------------------------------------------------------------------------

#define OP(name, ...) .name = name##_cuda,
const Backend cuda_backend = {
    .name = "cuda",
    .place = ON_DEVICE,
    .limits = {.experts = MOST_EXPERTS, .top_k = MOST_CHOICES, .head = WIDEST_HEAD},
    .available = available,
    .open = open_backend,
    .close = close_backend,
    .describe = describe,
    .allocate = allocate,
    .release = release,
    .free_bytes = free_bytes,
    .upload = upload,
    .download = download,
    .synchronize = synchronize,
    .products = matmul_plans_describe,
    .op = {OPS(OP)},
};
