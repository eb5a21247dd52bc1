// Working memory of the calling thread, kept and grown between calls: after the first steps no op
// allocates. One buffer a thread: the next call may move it, so an op asks once for all that it
// needs.
#ifndef MOETRAIN_KERNELS_CPU_SCRATCH_H
#define MOETRAIN_KERNELS_CPU_SCRATCH_H

#include <stddef.h>

// 64-byte aligned, contents undefined. Fatal (exit 5) without memory.
void *thread_scratch(size_t bytes);

// Bytes of the buffer that it keeps when this many are the most it was asked for.
size_t thread_scratch_capacity(size_t bytes);

#endif
