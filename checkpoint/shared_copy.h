// Copies of memory that several threads share out: of a state that training is about to change, by
// the thread that writes it behind training's back and, for what that has not come to in time, by
// those that wait for it. Nothing here is collective.
#ifndef MOETRAIN_CHECKPOINT_SHARED_COPY_H
#define MOETRAIN_CHECKPOINT_SHARED_COPY_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

typedef struct CopiedSpan {
    const void *from;
    void *to;
    size_t bytes;
} CopiedSpan;

typedef struct SharedCopy {
    CopiedSpan *spans; // grows with shared_copy_add
    int64_t count, room;
    _Atomic int64_t taken, copied; // spans that some thread has begun; that are there
} SharedCopy;

// Before the first thread begins.
void shared_copy_add(SharedCopy *copy, const void *from, void *to, size_t bytes);
// Copies span after span that no other thread has begun, and returns when all are copied. From any
// thread, from several at once, and as often as one likes.
void shared_copy_run(SharedCopy *copy);
void shared_copy_free(SharedCopy *copy); // legal on a zeroed one

#endif
