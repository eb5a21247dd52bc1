#include "checkpoint/shared_copy.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/check.h"

void shared_copy_add(SharedCopy *copy, const void *from, void *to, size_t bytes) {
    if (copy->count == copy->room) {
        copy->room = copy->room ? 2 * copy->room : 256;
        copy->spans = realloc(copy->spans, (size_t)copy->room * sizeof *copy->spans);
        CHECK_MEMORY(copy->spans, "no memory for a list of %lld copies", (long long)copy->room);
    }
    copy->spans[copy->count++] = (CopiedSpan){from, to, bytes};
}

void shared_copy_run(SharedCopy *copy) {
    int64_t i;
    while (atomic_load(&copy->taken) < copy->count &&
           (i = atomic_fetch_add(&copy->taken, 1)) < copy->count) {
        const CopiedSpan *span = &copy->spans[i];
        memcpy(span->to, span->from, span->bytes);
        atomic_fetch_add(&copy->copied, 1);
    }
    // For those who have begun one.
    while (atomic_load(&copy->copied) < copy->count) sched_yield();
}

void shared_copy_free(SharedCopy *copy) {
    free(copy->spans);
    *copy = (SharedCopy){0};
}
