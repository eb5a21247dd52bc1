// Working memory of the calling thread, kept and grown between calls: after the first steps no op
// allocates. One buffer a thread: the next call may move it, so an op asks once for all that it
// needs.
#ifndef MOETRAIN_KERNELS_CPU_SCRATCH_H
#define MOETRAIN_KERNELS_CPU_SCRATCH_H

#include <stddef.h>

#include "kernels/kernels.h"

// 64-byte aligned, contents undefined. Fatal (exit 5) without memory.
void *thread_scratch(size_t bytes);

// What the ops of a model are called with; letters as in model/work.h.
typedef struct ScratchShape {
    int64_t N, T, D, V;
    int64_t F;              // widest hidden layer
    int64_t E, K;           // 0: no experts
    int64_t parts;          // of a matrix product's rows, at most
    int64_t group;          // tokens of a routing group
    int64_t elements, rows; // of the longest run of parameters, and rows of its table
    AttentionShape attention;
    DType storage;
} ScratchShape;

// Bytes that one thread's buffer grows to at most when a model of this shape is trained, for
// planning.
size_t thread_scratch_most(ScratchShape shape);

// Of single calls, written beside the op.
int64_t sum_of_squares_scratch_bytes(int64_t elements, int64_t segments); // at most
int64_t attention_scratch_floats(AttentionShape s, int64_t T);
int64_t matmul_scratch_floats(int64_t parts, DType storage);

#endif
