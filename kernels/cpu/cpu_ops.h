// The CPU's implementation of every op of kernels.h, one file per family; the table is in
// backend_cpu.c.
//
// All of them: work is cut by shapes only and no float is summed across threads, so the number of
// OpenMP threads changes no bit.
#ifndef MOETRAIN_KERNELS_CPU_CPU_OPS_H
#define MOETRAIN_KERNELS_CPU_CPU_OPS_H

#include "kernels/kernels.h"
#include "kernels/ops.h"

#pragma GCC diagnostic ignored "-Wunused-parameter" // the CPU needs nothing from its Device

void *allocate_cpu(Device *dev, size_t bytes);
void release_cpu(Device *dev, void *data, size_t bytes);
size_t free_bytes_cpu(Device *dev);
void transfer_cpu(Device *dev, void *to, const void *from, size_t bytes);
void synchronize_cpu(Device *dev);
void close_cpu(Device *dev);

// Working memory of single ops, written beside them: what they ask thread_scratch for, at most.
int64_t sum_of_squares_scratch_bytes(int64_t elements, int64_t segments);
int64_t attention_scratch_floats(AttentionShape s, int64_t T);
int64_t named_rows_scratch_bytes(int64_t K, int64_t D, int64_t parts);
int64_t matmul_scratch_floats(int64_t parts, DType storage);

#define OP(name, ...) void name##_cpu(Device *dev, __VA_ARGS__);
OPS(OP)
#undef OP

#endif
