#include "kernels/cpu/cpu_ops.h"

void scale_rows_cpu(Device *dev, Tensor w, Tensor factors) {
    int64_t rows = w.shape[0], D = w.shape[1];
    float *weight = tensor_f32(w);
    const float *factor = tensor_f32(factors);
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++)
#pragma omp simd
        for (int64_t d = 0; d < D; d++) weight[r * D + d] *= factor[r];
}
