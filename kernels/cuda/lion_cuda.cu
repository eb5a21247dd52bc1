#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/update.cuh"

// One launch for all parameters of a run. A thread owns four consecutive elements. Reads w, g, m
// and writes w, m and the copy once: 20 or 22 bytes an element, the minimum. No element depends on
// another.
__global__ void __launch_bounds__(THREADS)
    lion_kernel(float *w, bf16 *copy, const float *g, float *m, const uint8_t *groups, int64_t n,
                Lion rule) {
    int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * PER_THREAD;
    if (i >= n) return;
    float weight[PER_THREAD], gradient[PER_THREAD], momentum[PER_THREAD];
    load_four(weight, w + i);
    load_four(gradient, g + i);
    load_four(momentum, m + i);
    int group = groups[i / UNIT];
    float lr = rule.lr[group], weight_decay = rule.weight_decay[group];
    float to_step = 1.0f - rule.beta1, to_m = 1.0f - rule.beta2;
#pragma unroll
    for (int j = 0; j < PER_THREAD; j++) {
        float gj = gradient[j] * rule.grad_scale;
        float direction = rule.beta1 * momentum[j] + to_step * gj;
        float step = direction > 0.0f ? 1.0f : direction < 0.0f ? -1.0f : 0.0f;
        momentum[j] = rule.beta2 * momentum[j] + to_m * gj;
        weight[j] -= lr * (step + weight_decay * weight[j]);
    }
    store_four(m + i, momentum);
    store_four(w + i, weight);
    if (copy) store_four(copy + i, weight);
}

void lion_update_cuda(Device *dev, Tensor w, Tensor copy, Tensor g, Tensor m, Tensor groups,
                      Lion rule) {
    int64_t n = w.shape[0];
    bf16 *rounded = copy.data ? aligned_data<bf16>(copy, "copy") : nullptr;
    launch(dev, lion_kernel, grid_of(ceil_div(n, THREADS * PER_THREAD)), THREADS, 0,
           aligned_data<float>(w, "w"), rounded, aligned_data<float>(g, "g"),
           aligned_data<float>(m, "m"), device_data<uint8_t>(groups), n, rule);
}
