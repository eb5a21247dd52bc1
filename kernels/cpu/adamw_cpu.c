#include <math.h>

#include "kernels/cpu/cpu_ops.h"

// One pass over w, g, m and v: 28 bytes of memory traffic an element are the cost, not the arithmetic.
void adamw_update_cpu(Device *dev, Tensor w, Tensor g, Tensor m, Tensor v, AdamW rule) {
    int64_t n = tensor_elements(w);
    float *weight = tensor_f32(w), *first = tensor_f32(m), *second = tensor_f32(v);
    const float *gradient = tensor_f32(g);
    float to_m = 1.0f - rule.beta1, to_v = 1.0f - rule.beta2;
    float m_scale = 1.0f / rule.bias_correction1, v_scale = 1.0f / rule.bias_correction2;
#pragma omp parallel for simd schedule(static)
    for (int64_t i = 0; i < n; i++) {
        float gi = gradient[i] * rule.grad_scale;
        float mi = rule.beta1 * first[i] + to_m * gi;
        float vi = rule.beta2 * second[i] + to_v * gi * gi;
        first[i] = mi;
        second[i] = vi;
        float step = mi * m_scale / (sqrtf(vi * v_scale) + rule.eps);
        weight[i] -= rule.lr * (step + rule.weight_decay * weight[i]);
    }
}
