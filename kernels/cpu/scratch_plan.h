// How much working memory a thread needs for the ops of a model, for planning.
#ifndef MOETRAIN_KERNELS_CPU_SCRATCH_PLAN_H
#define MOETRAIN_KERNELS_CPU_SCRATCH_PLAN_H

#include "kernels/kernels.h"

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

#endif
