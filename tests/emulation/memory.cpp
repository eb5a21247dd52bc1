// Device memory, pinned host memory and copies. Device memory is the host's own, fenced: under
// AddressSanitizer it is poisoned except while the device works, and has red zones around every
// allocation.
//
// MOETRAIN_EMULATION_PAGEABLE=late: an asynchronous copy reads ordinary host memory when its turn
// comes, which CUDA does not rule out, and not when it is called. With MOETRAIN_EMULATION_UNIFIED=1
// the GPU reads that memory by itself, late too.
#include "gpu.h"

#include <stdlib.h>

#include <algorithm>

namespace emulation {

namespace {

struct Allocation {
    char *data;
    size_t bytes;
};
std::vector<Allocation> device_memory, pinned_memory; // sorted by address
size_t used_bytes;
int device_works; // depth of DeviceAccess

// The allocation that `data` lies in or just behind.
const Allocation *find(const std::vector<Allocation> &memory, const void *data) {
    auto after = std::upper_bound(
        memory.begin(), memory.end(), static_cast<const char *>(data),
        [](const char *address, const Allocation &entry) { return address < entry.data; });
    if (after == memory.begin()) return nullptr;
    const Allocation *entry = &*(after - 1);
    return static_cast<const char *>(data) <= entry->data + entry->bytes ? entry : nullptr;
}
bool inside(const std::vector<Allocation> &memory, const void *data, size_t bytes) {
    const Allocation *entry = find(memory, data);
    return entry && static_cast<const char *>(data) + bytes <= entry->data + entry->bytes;
}
void insert(std::vector<Allocation> &memory, Allocation entry) {
    memory.insert(
        std::upper_bound(memory.begin(), memory.end(), entry,
                         [](const Allocation &a, const Allocation &b) { return a.data < b.data; }),
        entry);
}
// Removes the allocation that begins at `data`; 0 bytes when there is none.
Allocation remove(std::vector<Allocation> &memory, const void *data) {
    for (size_t i = 0; i < memory.size(); i++)
        if (memory[i].data == data) {
            Allocation entry = memory[i];
            memory.erase(memory.begin() + (ptrdiff_t)i);
            return entry;
        }
    return {nullptr, 0};
}

cudaError_t allocate_pinned(void **data, size_t bytes) {
    *data = nullptr;
    if (bytes == 0) return cudaSuccess;
    void *memory = nullptr;
    if (posix_memalign(&memory, 4096, bytes) != 0) return failed(cudaErrorMemoryAllocation);
    memset(memory, 0xff, bytes);
    insert(pinned_memory, {static_cast<char *>(memory), bytes});
    *data = memory;
    return cudaSuccess;
}

} // namespace

bool is_unified() {
    const char *unified = getenv("MOETRAIN_EMULATION_UNIFIED");
    return unified && strcmp(unified, "1") == 0;
}
static bool reads_pages_late() {
    const char *pageable = getenv("MOETRAIN_EMULATION_PAGEABLE");
    return is_unified() || (pageable && strcmp(pageable, "late") == 0);
}

size_t memory_limit() {
    const char *limit = getenv("MOETRAIN_EMULATION_MEMORY");
    return limit && *limit ? strtoull(limit, nullptr, 0) : (size_t)4 << 30;
}

// Poisoning costs an eighth of the bytes at every API call. Of large blocks (workspaces of
// libraries, which the host has no business in) only the ends change; small ones, arenas among
// them, change as a whole.
namespace {
const size_t LARGE_BYTES = 4 << 20, END_BYTES = 64 << 10;

typedef void (*Guard)(const void *data, size_t bytes); // allow or forbid

void guard(const Allocation &entry, Guard change) {
    if (entry.bytes <= LARGE_BYTES) return change(entry.data, entry.bytes);
    change(entry.data, END_BYTES);
    change(entry.data + entry.bytes - END_BYTES, END_BYTES);
}
} // namespace

DeviceAccess::DeviceAccess() {
    if (device_works++ > 0) return;
    for (const Allocation &entry : device_memory) guard(entry, allow);
}
DeviceAccess::~DeviceAccess() {
    if (--device_works > 0) return;
    for (const Allocation &entry : device_memory) guard(entry, forbid);
}

bool is_device_memory(const void *data, size_t bytes) {
    return inside(device_memory, data, bytes);
}
bool is_pinned_memory(const void *data, size_t bytes) {
    return inside(pinned_memory, data, bytes);
}
void check_device_memory(const void *data, size_t bytes, const char *call, const char *argument) {
    if (bytes == 0 && !data) return;
    if (is_device_memory(data, bytes)) return;
    const Allocation *entry = find(device_memory, data);
    if (entry)
        die("%s: %s: %zu bytes at %p go beyond the end of an allocation of %zu bytes at %p", call,
            argument, bytes, data, entry->bytes, (void *)entry->data);
    die("%s: %s: %p is not device memory", call, argument, data);
}
void check_kernel_pointer(const void *kernel, size_t argument, const void *pointer) {
    if (pointer && !find(device_memory, pointer))
        die("%s: argument %zu, counted from 0, is %p, which is not device memory",
            function_name(kernel).c_str(), argument, pointer);
}

// Where AddressSanitizer's heap can be.
#if defined(__x86_64__)
static const uintptr_t HEAP_BEGIN = 0x600000000000, HEAP_END = (uintptr_t)1 << 47;
#else
static const uintptr_t HEAP_BEGIN = (uintptr_t)1 << 32, HEAP_END = (uintptr_t)1 << 52;
#endif

// Pointers inside of a struct are not known by their type. Under AddressSanitizer, a word that is
// the address of something on the host's heap is taken for one: two numbers that make up such an
// address by chance are next to impossible.
void check_kernel_words(const void *kernel, size_t argument, const void *data, size_t bytes) {
#if EMULATION_ASAN
    for (size_t offset = 0; offset + sizeof(void *) <= bytes; offset += sizeof(void *)) {
        void *word, *region;
        memcpy(&word, static_cast<const char *>(data) + offset, sizeof word);
        char name[8];
        size_t region_bytes;
        // to look further is slow
        uintptr_t place = (uintptr_t)word;
        if (place < HEAP_BEGIN || place >= HEAP_END || find(device_memory, word)) continue;
        const char *kind = __asan_locate_address(word, name, sizeof name, &region, &region_bytes);
        if (strcmp(kind, "heap") == 0)
            die("%s: argument %zu, counted from 0, holds a pointer to host memory, %p, at byte %zu",
                function_name(kernel).c_str(), argument, word, offset);
    }
#else
    (void)kernel, (void)argument, (void)data, (void)bytes;
#endif
}

namespace {

// Checks a copy's two sides, resolving cudaMemcpyDefault as unified addressing does.
cudaMemcpyKind check_copy(const char *call, void *to, const void *from, size_t bytes,
                          cudaMemcpyKind kind) {
    bool to_device = find(device_memory, to), from_device = find(device_memory, from);
    if (kind == cudaMemcpyDefault)
        kind = to_device ? (from_device ? cudaMemcpyDeviceToDevice : cudaMemcpyHostToDevice)
                         : (from_device ? cudaMemcpyDeviceToHost : cudaMemcpyHostToHost);
    if (kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice)
        check_device_memory(to, bytes, call, "the destination");
    else if (to_device)
        die("%s: the destination %p is device memory, against the kind of copy", call, to);
    if (kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice)
        check_device_memory(from, bytes, call, "the source");
    else if (from_device)
        die("%s: the source %p is device memory, against the kind of copy", call, from);
    return kind;
}

} // namespace

} // namespace emulation

using namespace emulation;

extern "C" {

cudaError_t cudaMalloc(void **data, size_t bytes) {
    EMULATED_CALL(cudaErrorMemoryAllocation);
    *data = nullptr;
    if (bytes == 0) return cudaSuccess;
    if (bytes > memory_limit() - std::min(used_bytes, memory_limit()))
        return failed(cudaErrorMemoryAllocation);
    void *memory = nullptr;
    if (posix_memalign(&memory, 256, bytes) != 0) return failed(cudaErrorMemoryAllocation);
    memset(memory, 0xff, bytes); // whatever the program wants there it must write
    used_bytes += bytes;
    insert(device_memory, {static_cast<char *>(memory), bytes});
    if (device_works == 0) guard({static_cast<char *>(memory), bytes}, forbid);
    *data = memory;
    return cudaSuccess;
}

cudaError_t cudaFree(void *data) {
    EMULATED_CALL(cudaErrorInvalidValue);
    finish_all();
    if (!data) return cudaSuccess;
    Allocation entry = remove(device_memory, data);
    if (!entry.data) die("cudaFree: %p is not the begin of a live allocation", data);
    allow(entry.data, entry.bytes);
    used_bytes -= entry.bytes;
    free(entry.data);
    return cudaSuccess;
}

cudaError_t cudaHostAlloc(void **data, size_t bytes, unsigned) {
    EMULATED_CALL(cudaErrorMemoryAllocation);
    return allocate_pinned(data, bytes);
}
cudaError_t cudaMallocHost(void **data, size_t bytes) {
    EMULATED_CALL(cudaErrorMemoryAllocation);
    return allocate_pinned(data, bytes);
}
cudaError_t cudaFreeHost(void *data) {
    EMULATED_CALL(cudaErrorInvalidValue);
    finish_all();
    if (!data) return cudaSuccess;
    Allocation entry = remove(pinned_memory, data);
    if (!entry.data) die("cudaFreeHost: %p is not the begin of live pinned memory", data);
    free(entry.data);
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes) {
    EMULATED_CALL(cudaErrorUnknown);
    *total_bytes = memory_limit();
    *free_bytes = *total_bytes - std::min(used_bytes, *total_bytes);
    return cudaSuccess;
}

// Pageable memory is read at once, into the driver's own, unless the environment says otherwise,
// and pinned memory when the copy's turn comes: as on a GPU, where a program that changes a pinned
// buffer too early sends the changes.
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
    EMULATED_CALL(cudaErrorInvalidValue);
    kind = check_copy("cudaMemcpyAsync", to, from, bytes, kind);
    if (bytes == 0) return cudaSuccess;
    if (kind == cudaMemcpyHostToDevice && !is_pinned_memory(from, bytes) && !reads_pages_late()) {
        const char *begin = static_cast<const char *>(from);
        auto staged = std::make_shared<std::vector<char>>(begin, begin + bytes);
        enqueue(stream, "cudaMemcpyAsync", [=] { memcpy(to, staged->data(), bytes); });
    } else {
        enqueue(stream, "cudaMemcpyAsync", [=] { memmove(to, from, bytes); });
    }
    return cudaSuccess;
}
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind) {
    EMULATED_CALL(cudaErrorInvalidValue);
    kind = check_copy("cudaMemcpy", to, from, bytes, kind);
    if (bytes == 0) return cudaSuccess;
    enqueue(nullptr, "cudaMemcpy", [=] { memmove(to, from, bytes); });
    finish_stream(nullptr);
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *data, int value, size_t bytes, cudaStream_t stream) {
    EMULATED_CALL(cudaErrorInvalidValue);
    check_device_memory(data, bytes, "cudaMemsetAsync", "the destination");
    if (bytes == 0) return cudaSuccess;
    enqueue(stream, "cudaMemsetAsync", [=] { memset(data, value, bytes); });
    return cudaSuccess;
}
cudaError_t cudaMemset(void *data, int value, size_t bytes) {
    EMULATED_CALL(cudaErrorInvalidValue);
    check_device_memory(data, bytes, "cudaMemset", "the destination");
    if (bytes == 0) return cudaSuccess;
    enqueue(nullptr, "cudaMemset", [=] { memset(data, value, bytes); });
    return cudaSuccess;
}

} // extern "C"
