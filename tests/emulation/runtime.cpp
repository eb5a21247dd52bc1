// The rest of CUDA's runtime: devices, errors, launches. What is declared in CUDA's headers and not
// here (nor in streams.cpp and memory.cpp) does not link.
//
// MOETRAIN_EMULATION_DEVICES: how many GPUs there are (8), or "driver": one that is too old for the
// toolkit. MOETRAIN_EMULATION_OTHER_GPU: the number of one that is of another kind.
// MOETRAIN_EMULATION_ARCHITECTURE: 8 is Ampere, whose kernels Blackwell has too; Hopper (9) if not
// given.
#include "gpu.h"

#include <stdlib.h>

#include <algorithm>
#include <map>

namespace emulation {

namespace {

enum { MULTIPROCESSORS = 4, DRIVER = 13000 };

std::recursive_mutex one_call;
cudaError_t last_error;
int device_now;
std::map<const void *, size_t> dynamic_shared_limits; // of kernels that asked for more

bool old_driver() {
    const char *devices = getenv("MOETRAIN_EMULATION_DEVICES");
    return devices && strcmp(devices, "driver") == 0;
}
int device_count() {
    const char *devices = getenv("MOETRAIN_EMULATION_DEVICES");
    return devices && *devices ? atoi(devices) : 8;
}
// What the first call of a program gets on a machine without a usable GPU.
cudaError_t no_device() {
    if (old_driver()) return cudaErrorInsufficientDriver;
    return device_count() > 0 ? cudaSuccess : cudaErrorNoDevice;
}

struct Named {
    cudaError_t code;
    const char *name, *text;
};
const Named errors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration",
     "invalid configuration argument"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
     "CUDA driver version is insufficient for CUDA runtime version"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorUnknown, "cudaErrorUnknown", "unknown error"},
};
const Named *named(cudaError_t code) {
    for (const Named &entry : errors)
        if (entry.code == code) return &entry;
    return nullptr;
}

} // namespace

Call::Call(const char *name) : lock(one_call) {
    if (current) die("%s is called from a kernel", name);
}

cudaError_t failed(cudaError_t code) {
    last_error = code;
    return code;
}

bool fails(const char *name) {
    static const char *const wanted = getenv("MOETRAIN_EMULATION_FAIL");
    if (!wanted) return false;
    static std::map<std::string, long> calls;
    long call = ++calls[name];
    for (const char *at = wanted; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : nullptr) {
        size_t length = strlen(name);
        if (strncmp(at, name, length) == 0 && at[length] == ':' &&
            strtol(at + length + 1, nullptr, 10) == call)
            return true;
    }
    return false;
}

cudaError_t launch_kernel(const void *kernel, void (*run)(const void *),
                          std::shared_ptr<const void> launched, dim3 grid, dim3 block,
                          size_t dynamic_shared, cudaStream_t stream) {
    Call call("cudaLaunchKernel");
    if (fails("cudaLaunchKernel")) return failed(cudaErrorLaunchFailure);
    std::string name = function_name(kernel);
    uint64_t threads = (uint64_t)block.x * block.y * block.z;
    if (threads == 0 || threads > MOST_THREADS || block.x > 1024 || block.y > 1024 || block.z > 64)
        die("%s: a block of %u,%u,%u threads: there must be 1 to %d, of 1024,1024,64", name.c_str(),
            block.x, block.y, block.z, (int)MOST_THREADS);
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535 ||
        grid.z > 65535)
        die("%s: a grid of %u,%u,%u blocks: there must be some, at most 2147483647,65535,65535",
            name.c_str(), grid.x, grid.y, grid.z);
    auto asked = dynamic_shared_limits.find(kernel);
    size_t limit = asked == dynamic_shared_limits.end()
                       ? (size_t)PLAIN_DYNAMIC_SHARED
                       : std::max(asked->second, (size_t)PLAIN_DYNAMIC_SHARED);
    if (dynamic_shared > limit)
        die("%s: %zu bytes of dynamic shared memory: it may have %zu (cudaFuncSetAttribute)",
            name.c_str(), dynamic_shared, limit);
    enqueue(stream, "a kernel", [=] {
        run_kernel({kernel, run, launched.get(), grid, block, dynamic_shared});
    });
    return cudaSuccess;
}

} // namespace emulation

using namespace emulation;

static cudaError_t describe(cudaDeviceProp *properties, int device) {
    if (no_device() != cudaSuccess) return failed(no_device());
    if (device < 0 || device >= device_count()) return failed(cudaErrorInvalidDevice);
    memset(properties, 0, sizeof *properties);
    snprintf(properties->name, sizeof properties->name, "emulated GPU");
    memset(&properties->uuid, device, sizeof properties->uuid);
    properties->totalGlobalMem = memory_limit();
    properties->sharedMemPerBlock = PLAIN_DYNAMIC_SHARED;
    properties->sharedMemPerBlockOptin = MOST_DYNAMIC_SHARED;
    properties->sharedMemPerMultiprocessor = MOST_DYNAMIC_SHARED + 1024;
    properties->regsPerBlock = properties->regsPerMultiprocessor = 65536;
    properties->warpSize = 32;
    properties->maxThreadsPerBlock = MOST_THREADS;
    properties->maxThreadsPerMultiProcessor = 2048;
    properties->maxThreadsDim[0] = properties->maxThreadsDim[1] = 1024;
    properties->maxThreadsDim[2] = 64;
    properties->maxGridSize[0] = 0x7fffffff;
    properties->maxGridSize[1] = properties->maxGridSize[2] = 65535;
    const char *architecture = getenv("MOETRAIN_EMULATION_ARCHITECTURE");
    properties->major = architecture ? atoi(architecture) : 9;
    properties->multiProcessorCount = MULTIPROCESSORS;
    properties->unifiedAddressing = 1;
    properties->concurrentKernels = 1;
    properties->l2CacheSize = 50 << 20;
    properties->pciBusID = device + 1;
    properties->pageableMemoryAccess = properties->concurrentManagedAccess = is_unified();
    // MOETRAIN_EMULATION_OTHER_GPU: this one is of another kind.
    const char *other = getenv("MOETRAIN_EMULATION_OTHER_GPU");
    if (other && *other && atoi(other) == device) {
        snprintf(properties->name, sizeof properties->name, "emulated GPU of another kind");
        properties->multiProcessorCount = MULTIPROCESSORS - 1;
    }
    return cudaSuccess;
}

extern "C" {

cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute attribute, int value) {
    EMULATED_CALL(cudaErrorInvalidValue);
    if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout) return cudaSuccess;
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize)
        die("cudaFuncSetAttribute: attribute %d is not emulated", (int)attribute);
    if (value < 0 || value > MOST_DYNAMIC_SHARED) return failed(cudaErrorInvalidValue);
    dynamic_shared_limits[kernel] = (size_t)value;
    return cudaSuccess;
}

const char *cudaGetErrorString(cudaError_t code) {
    return named(code) ? named(code)->text : "an error that the emulated GPU has no words for";
}
const char *cudaGetErrorName(cudaError_t code) {
    return named(code) ? named(code)->name : "cudaError";
}
cudaError_t cudaGetLastError(void) {
    Call call("cudaGetLastError");
    cudaError_t code = last_error;
    last_error = cudaSuccess;
    return code;
}
cudaError_t cudaPeekAtLastError(void) {
    Call call("cudaPeekAtLastError");
    return last_error;
}

cudaError_t cudaGetDeviceCount(int *count) {
    EMULATED_CALL(cudaErrorUnknown);
    *count = 0;
    if (no_device() != cudaSuccess) return failed(no_device());
    *count = device_count();
    return cudaSuccess;
}
// One process has one emulated GPU, whichever it sets.
cudaError_t cudaSetDevice(int device) {
    EMULATED_CALL(cudaErrorUnknown);
    if (no_device() != cudaSuccess) return failed(no_device());
    if (device < 0 || device >= device_count()) return failed(cudaErrorInvalidDevice);
    device_now = device;
    return cudaSuccess;
}
cudaError_t cudaGetDevice(int *device) {
    EMULATED_CALL(cudaErrorUnknown);
    if (no_device() != cudaSuccess) return failed(no_device());
    *device = device_now;
    return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int device) {
    EMULATED_CALL(cudaErrorUnknown);
    return describe(properties, device);
}
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device) {
    EMULATED_CALL(cudaErrorUnknown);
    cudaDeviceProp properties;
    cudaError_t code = describe(&properties, device);
    if (code != cudaSuccess) return code;
    switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
        *value = properties.maxThreadsPerBlock;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
        *value = PLAIN_DYNAMIC_SHARED;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = MOST_DYNAMIC_SHARED;
        break;
    case cudaDevAttrMultiProcessorCount:
        *value = properties.multiProcessorCount;
        break;
    case cudaDevAttrComputeCapabilityMajor:
        *value = properties.major;
        break;
    case cudaDevAttrComputeCapabilityMinor:
        *value = properties.minor;
        break;
    case cudaDevAttrWarpSize:
        *value = properties.warpSize;
        break;
    case cudaDevAttrUnifiedAddressing:
        *value = 1;
        break;
    case cudaDevAttrL2CacheSize:
        *value = properties.l2CacheSize;
        break;
    case cudaDevAttrPciBusId:
        *value = properties.pciBusID;
        break;
    case cudaDevAttrPciDeviceId:
        *value = 0;
        break;
    case cudaDevAttrPciDomainId:
        *value = 0;
        break;
    default:
        die("cudaDeviceGetAttribute: attribute %d is not emulated", (int)attribute);
    }
    return cudaSuccess;
}
cudaError_t cudaDeviceGetPCIBusId(char *text, int bytes, int device) {
    EMULATED_CALL(cudaErrorUnknown);
    if (device < 0 || device >= device_count()) return failed(cudaErrorInvalidDevice);
    snprintf(text, (size_t)bytes, "0000:%02x:00.0", device + 1);
    return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int *version) {
    EMULATED_CALL(cudaErrorUnknown);
    *version = old_driver() ? 12020 : DRIVER;
    return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int *version) {
    EMULATED_CALL(cudaErrorUnknown);
    *version = CUDART_VERSION;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    EMULATED_CALL(cudaErrorUnknown);
    *least = 0, *greatest = -5;
    return cudaSuccess;
}
cudaError_t cudaDeviceReset(void) {
    EMULATED_CALL(cudaErrorUnknown);
    finish_all();
    return cudaSuccess;
}

} // extern "C"
