#include "kernels/cpu/bf16.h"
#include "kernels/cpu/cpu_ops.h"

// One pass over w, g and m, and the copy: 20 or 22 bytes of memory traffic an element.
void sgd_update_cpu(Device *dev, Tensor w, Tensor copy, Tensor g, Tensor m, Tensor groups,
                    Sgd rule) {
    enum { UNIT = 16 }; // elements of one group number
    int64_t units = groups.shape[0];
    const uint8_t *group = tensor_u8(groups);
    uint16_t *rounded = copy.data ? tensor_bf16(copy) : NULL;
    float *weight = tensor_f32(w), *momentum = tensor_f32(m);
    const float *gradient = tensor_f32(g);
    // The step is own · g' + ahead · m.
    float own = rule.nesterov ? 1.0f : 0.0f, ahead = rule.nesterov ? rule.momentum : 1.0f;
#pragma omp parallel for schedule(static)
    for (int64_t u = 0; u < units; u++) {
        float lr = rule.lr[group[u]], weight_decay = rule.weight_decay[group[u]];
#pragma omp simd
        for (int64_t i = u * UNIT; i < (u + 1) * UNIT; i++) {
            float gi = gradient[i] * rule.grad_scale + weight_decay * weight[i];
            float mi = rule.momentum * momentum[i] + gi;
            momentum[i] = mi;
            weight[i] -= lr * (own * gi + ahead * mi);
        }
        if (rounded) round_to_bf16(rounded + u * UNIT, weight + u * UNIT, UNIT);
    }
}
