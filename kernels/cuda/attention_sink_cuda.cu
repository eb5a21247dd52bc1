// The gradient of attention's sinks, row by row.
#include "kernels/cuda/attention_delta.cuh"
#include "kernels/cuda/attention_tile.cuh"
#include "kernels/cuda/cuda_ops.h"

enum { SINK_THREADS = 256 };

// dsinks holds delta and becomes -exp(sink - lse) · delta; a thread an element. 12 bytes each; no
// element depends on another.
__global__ void __launch_bounds__(SINK_THREADS)
    attention_sink_kernel(float *dsinks, const float *lse, const float *sinks, int64_t count,
                          int heads) {
    int64_t i = (int64_t)blockIdx.x * SINK_THREADS + threadIdx.x;
    if (i < count) dsinks[i] *= -exp2f((sinks[i % heads] - lse[i]) * LOG2_E);
}

void attention_sink_backward_cuda(Device *dev, Tensor dsinks, Tensor dout, Tensor out, Tensor lse,
                                  Tensor sinks) {
    int64_t N = lse.shape[0], H = lse.shape[1];
    float *delta = device_data<float>(dsinks);
    (out.dtype == F32 ? launch_delta<float> : launch_delta<bf16>)(dev, delta, dout, out,
                                                                  out.shape[1] / H);
    launch(dev, attention_sink_kernel, grid_of(ceil_div(N * H, SINK_THREADS)), dim3(SINK_THREADS),
           0, delta, device_data<float>(lse), device_data<float>(sinks), N * H, H);
}
