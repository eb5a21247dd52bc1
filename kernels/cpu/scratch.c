#include "kernels/cpu/scratch.h"

#include <stdlib.h>

#include "kernels/check.h"

void *thread_scratch(size_t bytes) {
    static _Thread_local void *buffer = NULL;
    static _Thread_local size_t capacity = 0;
    if (bytes > capacity) {
        free(buffer);
        capacity = (bytes + bytes / 2 + 63) / 64 * 64;
        buffer = aligned_alloc(64, capacity);
        if (!buffer)
            die(EXIT_IO, __FILE__, __LINE__, "no memory for %zu bytes of scratch", capacity);
    }
    return buffer;
}
