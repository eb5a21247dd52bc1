#include "kernels/cpu/scratch.h"

#include <stdlib.h>
#include <threads.h>

#include "kernels/check.h"

// Frees the buffers of threads that end.
static once_flag key_once = ONCE_FLAG_INIT;
static tss_t key;

static void make_key(void) {
    CHECK_MEMORY(tss_create(&key, free) == thrd_success, "no thread-specific storage");
}

size_t thread_scratch_capacity(size_t bytes) {
    return (bytes + bytes / 2 + 63) / 64 * 64;
}

void *thread_scratch(size_t bytes) {
    static _Thread_local void *buffer = NULL;
    static _Thread_local size_t capacity = 0;
    if (bytes <= capacity) return buffer;
    call_once(&key_once, make_key);
    free(buffer);
    capacity = thread_scratch_capacity(bytes);
    buffer = aligned_alloc(64, capacity);
    CHECK_MEMORY(buffer, "no memory for %zu bytes of scratch", capacity);
    CHECK_MEMORY(tss_set(key, buffer) == thrd_success, "no thread-specific storage");
    return buffer;
}
