#include "kernels/arena.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
enum { RED_ZONES = true };
#else
enum { RED_ZONES = false };
#define ASAN_POISON_MEMORY_REGION(start, bytes)   ((void)(start), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(start, bytes) ((void)(start), (void)(bytes))
#endif

enum { ALIGNMENT = 64, GAP = 64 };

void arena_measure(Arena *arena, const char *name, Device *dev) {
    *arena = (Arena){.name = name, .dev = dev};
}

static Place memory_place(const Arena *arena) {
    return arena->dev ? arena->dev->place : ON_HOST;
}

void arena_allocate(Arena *arena) {
    CHECK(!arena->base, "arena %s is allocated twice", arena->name);
    size_t bytes = arena->peak_bytes + ALIGNMENT;
    void *base = device_allocate(arena->dev, bytes, arena->name);
    arena->base = base;
    arena->capacity_bytes = bytes;
    arena->used_bytes = arena->peak_bytes = 0;
    if (memory_place(arena) == ON_HOST) ASAN_POISON_MEMORY_REGION(base, bytes);
}

// Whether tensors may lie where others lay or will lie. With red zones none may: the tensors of one
// would fill the gaps between those of the other, and nothing would be noticed that one writes
// beyond its end.
static bool overlays(const Arena *arena) {
    return !RED_ZONES || memory_place(arena) != ON_HOST;
}

void arena_share(Arena *arena, const Arena *owner) {
    if (!overlays(arena)) {
        arena_allocate(arena);
        return;
    }
    CHECK(owner->base && arena->peak_bytes + ALIGNMENT <= owner->capacity_bytes,
          "arena %s of %zu bytes shares one of %zu", arena->name, arena->peak_bytes,
          owner->capacity_bytes);
    arena->base = owner->base;
    arena->capacity_bytes = owner->capacity_bytes;
    arena->used_bytes = arena->peak_bytes = 0;
    arena->shared = true;
}

void arena_free(Arena *arena) {
    if (arena->base && !arena->shared) {
        if (memory_place(arena) == ON_HOST)
            ASAN_UNPOISON_MEMORY_REGION(arena->base, arena->capacity_bytes);
        device_release(arena->dev, arena->base, arena->capacity_bytes);
    }
    *arena = (Arena){.name = arena->name, .dev = arena->dev};
}

static Tensor place(Arena *arena, Tensor x) {
    size_t bytes = tensor_bytes(x);
    x.place = memory_place(arena);
    if (arena->base) {
        CHECK(arena->used_bytes + bytes <= arena->capacity_bytes,
              "arena %s is full: %zu of %zu bytes used, %zu more needed", arena->name,
              arena->used_bytes, arena->capacity_bytes, bytes);
        x.data = arena->base + arena->used_bytes;
        if (x.place == ON_HOST) ASAN_UNPOISON_MEMORY_REGION(x.data, bytes);
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

Tensor arena_mirror(Arena *arena, Tensor x) {
    CHECK(memory_place(arena) == ON_HOST, "arena %s holds mirrors but is not on the host",
          arena->name);
    return x.place == ON_HOST ? x : place(arena, x);
}

size_t arena_mark(const Arena *arena) {
    return arena->used_bytes;
}

void arena_release(Arena *arena, size_t mark) {
    CHECK(mark <= arena->used_bytes, "arena %s released to a mark above its top", arena->name);
    if (overlays(arena)) arena->used_bytes = mark;
}
