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

static size_t grown(size_t bytes) {
    return (bytes + bytes / 2 + 63) / 64 * 64;
}

void *thread_scratch(size_t bytes) {
    static _Thread_local void *buffer = NULL;
    static _Thread_local size_t capacity = 0;
    if (bytes <= capacity) return buffer;
    call_once(&key_once, make_key);
    free(buffer);
    capacity = grown(bytes);
    buffer = aligned_alloc(64, capacity);
    CHECK_MEMORY(buffer, "no memory for %zu bytes of scratch", capacity);
    CHECK_MEMORY(tss_set(key, buffer) == thrd_success, "no thread-specific storage");
    return buffer;
}

size_t thread_scratch_most(ScratchShape s) {
    int64_t levels = 1; // of the tree of sums
    while ((int64_t)1 << levels <= s.parts) levels++;
    const int64_t bytes[] = {
        attention_scratch_floats(s.attention, s.T) * 4,
        matmul_scratch_floats(s.parts, s.storage) * 4,
        levels * s.D * 4,                    // embedding_backward
        2 * s.D * 4,                         // norms and permutations of bf16
        s.storage == BF16 ? s.V * 4 : 0,     // cross_entropy
        s.storage == BF16 ? 3 * s.F * 4 : 0, // activations
        s.storage == BF16 ? s.attention.heads * s.attention.d_head * 4 : 0, // rope
        3 * s.N * 4,                                                        // router_forward
        s.E * s.parts * 4,                                                  // permutation_plan
        s.group * s.K * 8 + s.E * 4,                                        // capacity_assign
        sum_of_squares_scratch_bytes(s.elements, s.rows),
    };
    size_t most = 0;
    for (size_t i = 0; i < sizeof bytes / sizeof *bytes; i++)
        if ((size_t)bytes[i] > most) most = (size_t)bytes[i];
    return grown(most);
}
