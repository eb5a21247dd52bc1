#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/storage.cuh"

enum { THREADS = 256 };

// A thread owns a number of out, neighbours in a block's columns side by side: reads and writes are
// whole transactions where blocks are wider than a warp. Bytes moved: each number of out once, its
// terms once.
template <typename To, typename From>
__global__ void __launch_bounds__(THREADS)
    copy_columns_kernel(To *out, int64_t out_width, const From *x, int64_t x_width, int64_t count,
                        ColumnBlocks c) {
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= count) return;
    int64_t j = i % c.width, b = i / c.width % c.blocks, r = i / (c.width * c.blocks);
    const From *from = x + r * x_width + c.x_first + b * c.x_stride + j;
    float sum = to_float(from[0]);
    for (int64_t t = 1; t < c.terms; t++) sum += to_float(from[t * c.term_stride]);
    out[r * out_width + c.out_first + b * c.out_stride + j] = from_float<To>(sum);
}

template <typename To, typename From>
static void copy_blocks(Device *dev, Tensor out, Tensor x, ColumnBlocks c) {
    int64_t count = out.shape[0] * c.blocks * c.width;
    launch(dev, copy_columns_kernel<To, From>, grid_of(ceil_div(count, THREADS)), THREADS, 0,
           device_data<To>(out), out.shape[1], device_data<From>(x), x.shape[1], count, c);
}

void copy_columns_cuda(Device *dev, Tensor out, Tensor x, ColumnBlocks c) {
    if (out.dtype == F32)
        (x.dtype == F32 ? copy_blocks<float, float> : copy_blocks<float, bf16>)(dev, out, x, c);
    else
        (x.dtype == F32 ? copy_blocks<bf16, float> : copy_blocks<bf16, bf16>)(dev, out, x, c);
}
