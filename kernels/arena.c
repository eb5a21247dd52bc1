#include "kernels/arena.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(start, bytes)   ((void)(start), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(start, bytes) ((void)(start), (void)(bytes))
#endif

enum { ALIGNMENT = 64, GAP = 64 };

void arena_measure(Arena *arena, const char *name) { *arena = (Arena){.name = name}; }

void arena_allocate(Arena *arena) {
    CHECK(!arena->base, "arena %s is allocated twice", arena->name);
    size_t bytes = arena->peak_bytes + ALIGNMENT;
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED)
        die(EXIT_IO, __FILE__, __LINE__, "no memory for %s: %.1f MiB wanted: %s", arena->name,
            (double)bytes / 1048576.0, strerror(errno));
    // Large pages where the kernel has them: fewer first-touch faults. Advice only, failure is fine.
    madvise(base, bytes, MADV_HUGEPAGE);
    arena->base = base;
    arena->capacity_bytes = bytes;
    arena->used_bytes = arena->peak_bytes = 0;
    ASAN_POISON_MEMORY_REGION(base, bytes);
}

void arena_free(Arena *arena) {
    if (arena->base) {
        ASAN_UNPOISON_MEMORY_REGION(arena->base, arena->capacity_bytes);
        munmap(arena->base, arena->capacity_bytes);
    }
    *arena = (Arena){.name = arena->name};
}

static Tensor place(Arena *arena, Tensor x) {
    size_t bytes = tensor_bytes(x);
    if (arena->base) {
        CHECK(arena->used_bytes + bytes <= arena->capacity_bytes,
              "arena %s is full: %zu of %zu bytes used, %zu more wanted", arena->name,
              arena->used_bytes, arena->capacity_bytes, bytes);
        x.data = arena->base + arena->used_bytes;
        ASAN_UNPOISON_MEMORY_REGION(x.data, bytes);
    }
    size_t rounded = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    arena->used_bytes += rounded + GAP;
    if (arena->used_bytes > arena->peak_bytes) arena->peak_bytes = arena->used_bytes;
    return x;
}

Tensor arena_1d(Arena *arena, DType dtype, int64_t n0) {
    return place(arena, tensor_1d(NULL, dtype, n0));
}

Tensor arena_2d(Arena *arena, DType dtype, int64_t n0, int64_t n1) {
    return place(arena, tensor_2d(NULL, dtype, n0, n1));
}

Tensor arena_3d(Arena *arena, DType dtype, int64_t n0, int64_t n1, int64_t n2) {
    return place(arena, tensor_3d(NULL, dtype, n0, n1, n2));
}

size_t arena_mark(const Arena *arena) { return arena->used_bytes; }

void arena_release(Arena *arena, size_t mark) {
    CHECK(mark <= arena->used_bytes, "arena %s released to a mark above its top", arena->name);
    arena->used_bytes = mark;
}
