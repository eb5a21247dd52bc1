#include <string.h>
#include <sys/mman.h>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/host_memory.h"

// Private, zeroed, touched on first use: memory that is never used costs nothing.
void *allocate_cpu(Device *dev, size_t bytes) {
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) return NULL;
    // Large pages where the kernel has them: fewer first-touch faults. Advice only, failure is
    // fine.
    madvise(base, bytes, MADV_HUGEPAGE);
    return base;
}

void release_cpu(Device *dev, void *data, size_t bytes) {
    munmap(data, bytes);
}

size_t free_bytes_cpu(Device *dev) {
    return host_memory().available_bytes;
}

void transfer_cpu(Device *dev, void *to, const void *from, size_t bytes) {
    memcpy(to, from, bytes);
}

void synchronize_cpu(Device *dev) {
    // Every op has finished when it returns.
}

void close_cpu(Device *dev) {}
