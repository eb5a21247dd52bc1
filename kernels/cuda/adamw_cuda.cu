#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/update.cuh"

// One launch for all parameters of a run. A thread owns four consecutive elements: 16 bytes of w,
// g, m and v, 8 of the copy, and a quarter of a group number. Reads w, g, m, v and writes w, m, v
// and the copy once: 28 or 30 bytes an element, the minimum, and what the time goes to. No element
// depends on another.
__global__ void __launch_bounds__(THREADS)
    adamw_kernel(float *w, bf16 *copy, const float *g, float *m, float *v, const uint8_t *groups,
                 int64_t n, AdamW rule) {
    int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * PER_THREAD;
    if (i >= n) return;
    float weight[PER_THREAD], gradient[PER_THREAD], first[PER_THREAD], second[PER_THREAD];
    load_four(weight, w + i);
    load_four(gradient, g + i);
    load_four(first, m + i);
    load_four(second, v + i);
    int group = groups[i / UNIT];
    float lr = rule.lr[group], weight_decay = rule.weight_decay[group];
    float to_m = 1.0f - rule.beta1, to_v = 1.0f - rule.beta2;
    float m_scale = 1.0f / rule.bias_correction1, v_scale = 1.0f / rule.bias_correction2;
#pragma unroll
    for (int j = 0; j < PER_THREAD; j++) {
        float gj = gradient[j] * rule.grad_scale;
        first[j] = rule.beta1 * first[j] + to_m * gj;
        second[j] = rule.beta2 * second[j] + to_v * gj * gj;
        float step = first[j] * m_scale / (sqrtf(second[j] * v_scale) + rule.eps);
        weight[j] -= lr * (step + weight_decay * weight[j]);
    }
    store_four(m + i, first);
    store_four(v + i, second);
    store_four(w + i, weight);
    if (copy) store_four(copy + i, weight);
}

void adamw_update_cuda(Device *dev, Tensor w, Tensor copy, Tensor g, Tensor m, Tensor v,
                       Tensor groups, AdamW rule) {
    int64_t n = w.shape[0];
    bf16 *rounded = copy.data ? aligned_data<bf16>(copy, "copy") : nullptr;
    launch(dev, adamw_kernel, grid_of(ceil_div(n, THREADS * PER_THREAD)), THREADS, 0,
           aligned_data<float>(w, "w"), rounded, aligned_data<float>(g, "g"),
           aligned_data<float>(m, "m"), aligned_data<float>(v, "v"), device_data<uint8_t>(groups),
           n, rule);
}
