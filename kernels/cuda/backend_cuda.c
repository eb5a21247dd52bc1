#include "kernels/backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/limits.h"

enum { WORKSPACE_ALIGNMENT = 256 };
// What NVIDIA recommends for Hopper (32 MiB); cuBLAS takes less on older GPUs.
static const size_t LIBRARY_WORKSPACE_BYTES = (size_t)32 << 20;
enum { LEAST_CAPABILITY = 80 }; // bf16 tensor cores and cp.async

// ---- failing -------------------------------------------------------------------------------------------

void cuda_die(const char *file, int line, const char *call, cudaError_t code) {
    die(EXIT_COMMUNICATION, file, line, "%s: %s (%s)", call, cudaGetErrorString(code),
        cudaGetErrorName(code));
}

void cublas_die(const char *file, int line, const char *call, cublasStatus_t code) {
    die(EXIT_COMMUNICATION, file, line, "%s: %s (%s)", call, cublasGetStatusString(code),
        cublasGetStatusName(code));
}

// ---- opening -------------------------------------------------------------------------------------------

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

// Everything of one GPU. The error names the call that failed.
static bool open_gpu(Device *dev, int ordinal, Error *err) {
    CudaState *state = cuda_state(dev);
    struct cudaDeviceProp properties;
    state->ordinal = ordinal;
    cudaError_t code = cudaSetDevice(ordinal);
    if (code == cudaSuccess) code = cudaGetDeviceProperties(&properties, ordinal);
    if (code == cudaSuccess)
        code = cudaStreamCreateWithFlags(&state->compute, cudaStreamNonBlocking);
    if (code == cudaSuccess)
        code = cudaStreamCreateWithFlags(&state->exchange, cudaStreamNonBlocking);
    if (code != cudaSuccess)
        return error_set(
            err, EXIT_COMMUNICATION,
            "GPU %d cannot be opened: %s; another process may hold it exclusively, or it "
            "has failed (nvidia-smi)",
            ordinal, cudaGetErrorString(code));
    memcpy(dev->identity, &properties.uuid, sizeof dev->identity);
    state->multiprocessors = properties.multiProcessorCount;
    state->compute_capability = properties.major * 10 + properties.minor;
    state->reads_host_pages = properties.pageableMemoryAccess != 0;
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
    CUBLAS_CHECK(cublasLtCreate(&state->lt));
    CUBLAS_CHECK(cublasCreate(&state->blas));
    CUBLAS_CHECK(cublasSetStream(state->blas, state->compute));
    CUBLAS_CHECK(
        cublasSetWorkspace(state->blas, state->library_workspace, state->library_workspace_bytes));
    return true;
}

static void close_backend(Device *dev) {
    CudaState *state = cuda_state(dev);
    if (!state) return;
    if (state->compute) CUDA_CHECK(cudaStreamSynchronize(state->compute));
    if (state->exchange) CUDA_CHECK(cudaStreamSynchronize(state->exchange));
    matmul_plans_free(state);
    if (state->blas) CUBLAS_CHECK(cublasDestroy(state->blas));
    if (state->lt) CUBLAS_CHECK(cublasLtDestroy(state->lt));
    // A GPU that could not be opened fails every call that would make a context, cudaFree(NULL) too.
    if (state->workspace) CUDA_CHECK(cudaFree(state->workspace));
    if (state->library_workspace) CUDA_CHECK(cudaFree(state->library_workspace));
    if (state->compute) CUDA_CHECK(cudaStreamDestroy(state->compute));
    if (state->exchange) CUDA_CHECK(cudaStreamDestroy(state->exchange));
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
    const CudaState *state = cuda_state(dev);
    struct cudaDeviceProp properties;
    int runtime = 0, version = 0;
    CUDA_CHECK(cudaGetDeviceProperties(&properties, state->ordinal));
    CUDA_CHECK(cudaRuntimeGetVersion(&runtime));
    CUBLAS_CHECK(cublasGetVersion(state->blas, &version));
    snprintf(text, bytes, "GPU %d: %s, %.0f GiB, sm_%d, CUDA %d.%d, cuBLAS %d.%d", state->ordinal,
             properties.name, (double)properties.totalGlobalMem / 1073741824.0,
             state->compute_capability, runtime / 1000, runtime % 1000 / 10, version / 10000,
             version / 100 % 100);
}

// ---- memory --------------------------------------------------------------------------------------------

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

static void upload(Device *dev, void *to, const void *from, size_t bytes) {
    cudaStream_t stream = cuda_state(dev)->compute;
    // Host memory is pageable throughout the program. Where the driver must stage it the call returns when that is done: `from`
    // is the caller's again, and nothing waits for the stream.
    CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream));
    if (cuda_state(dev)->reads_host_pages) CUDA_CHECK(cudaStreamSynchronize(stream));
}

static void download(Device *dev, void *to, const void *from, size_t bytes) {
    cudaStream_t stream = cuda_state(dev)->compute;
    CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream));
    CUDA_CHECK(cudaStreamSynchronize(stream));
}

static void synchronize(Device *dev) {
    CUDA_CHECK(cudaStreamSynchronize(cuda_state(dev)->compute));
    CUDA_CHECK(cudaStreamSynchronize(cuda_state(dev)->exchange));
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

// ---- the table -----------------------------------------------------------------------------------------

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
    .matmul_forward = matmul_forward_cuda,
    .matmul_backward_input = matmul_backward_input_cuda,
    .matmul_backward_weight = matmul_backward_weight_cuda,
    .embedding_forward = embedding_forward_cuda,
    .embedding_backward = embedding_backward_cuda,
    .rmsnorm_forward = rmsnorm_forward_cuda,
    .rmsnorm_backward = rmsnorm_backward_cuda,
    .rope = rope_cuda,
    .attention_forward = attention_forward_cuda,
    .attention_backward = attention_backward_cuda,
    .attention_decode = attention_decode_cuda,
    .activation_forward = activation_forward_cuda,
    .activation_backward = activation_backward_cuda,
    .router_forward = router_forward_cuda,
    .router_backward = router_backward_cuda,
    .capacity_assign = capacity_assign_cuda,
    .expert_load = expert_load_cuda,
    .router_totals = router_totals_cuda,
    .sum_columns = sum_columns_cuda,
    .permutation_plan = permutation_plan_cuda,
    .exchange_plan = exchange_plan_cuda,
    .gather_rows = gather_rows_cuda,
    .combine_forward = combine_forward_cuda,
    .combine_backward = combine_backward_cuda,
    .renormalize_forward = renormalize_forward_cuda,
    .renormalize_backward = renormalize_backward_cuda,
    .cross_entropy = cross_entropy_cuda,
    .fill_zero = fill_zero_cuda,
    .copy = copy_cuda,
    .convert = convert_cuda,
    .add = add_cuda,
    .segment_sum = segment_sum_cuda,
    .sum_of_squares = sum_of_squares_cuda,
    .adamw_update = adamw_update_cuda,
};
