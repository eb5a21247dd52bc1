#include "kernels/cpu/cpu_ops.h"

// 12 bytes of memory traffic an element are the cost.
void moving_average_cpu(Device *dev, Tensor average, Tensor w, float decay) {
    int64_t n = average.shape[0];
    float *mean = tensor_f32(average), rest = 1.0f - decay;
    const float *weight = tensor_f32(w);
#pragma omp parallel for simd schedule(static)
    for (int64_t i = 0; i < n; i++) mean[i] = decay * mean[i] + rest * weight[i];
}
