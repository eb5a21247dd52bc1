#include <math.h>

#include "kernels/cpu/bf16.h"
#include "kernels/cpu/cpu_ops.h"

// One pass over w, g, m and v, and the copy: 28 or 30 bytes of memory traffic an element are the
// cost, not the arithmetic.
void adamw_update_cpu(Device *dev, Tensor w, Tensor copy, Tensor g, Tensor m, Tensor v,
                      Tensor groups, AdamW rule) {
    enum { UNIT = 16 }; // elements of one group number
    int64_t units = groups.shape[0];
    const uint8_t *group = tensor_u8(groups);
    uint16_t *rounded = copy.data ? tensor_bf16(copy) : NULL;
    float *weight = tensor_f32(w), *first = tensor_f32(m), *second = tensor_f32(v);
    const float *gradient = tensor_f32(g);
    float to_m = 1.0f - rule.beta1, to_v = 1.0f - rule.beta2;
    float m_scale = 1.0f / rule.bias_correction1, v_scale = 1.0f / rule.bias_correction2;
#pragma omp parallel for schedule(static)
    for (int64_t u = 0; u < units; u++) {
        float lr = rule.lr[group[u]], weight_decay = rule.weight_decay[group[u]];
#pragma omp simd
        for (int64_t i = u * UNIT; i < (u + 1) * UNIT; i++) {
            float gi = gradient[i] * rule.grad_scale;
            float mi = rule.beta1 * first[i] + to_m * gi;
            float vi = rule.beta2 * second[i] + to_v * gi * gi;
            first[i] = mi;
            second[i] = vi;
            float step = mi * m_scale / (sqrtf(vi * v_scale) + rule.eps);
            weight[i] -= lr * (step + weight_decay * weight[i]);
        }
        if (rounded) round_to_bf16(rounded + u * UNIT, weight + u * UNIT, UNIT);
    }
}
