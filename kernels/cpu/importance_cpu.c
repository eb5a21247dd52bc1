#include <math.h>
#include <string.h>

#include "kernels/cpu/balance_sums.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/router_scores.h"

void importance_sums_cpu(Device *dev, Tensor sums, Tensor ids, Tensor weights) {
    int64_t parts = sums.shape[0], E = sums.shape[1];
    int64_t choices = ids.shape[0] / parts * ids.shape[1];
    const int32_t *id = tensor_i32(ids);
    const float *w = tensor_f32(weights);
    memset(sums.data, 0, tensor_bytes(sums));
#pragma omp parallel for schedule(static)
    for (int64_t p = 0; p < parts; p++) {
        int64_t *sum = tensor_i64(sums) + p * E;
        for (int64_t c = p * choices; c < (p + 1) * choices; c++)
            if (is_expert(id[c], E)) sum[id[c]] += balance_units(w[c]);
    }
}

void importance_backward_cpu(Device *dev, Tensor dweights, Tensor ids, Tensor slopes) {
    int64_t E = slopes.shape[1], count = tensor_elements(ids);
    int64_t of_part = count / slopes.shape[0];
    const int32_t *id = tensor_i32(ids);
    const float *slope = tensor_f32(slopes);
    float *dw = tensor_f32(dweights);
    for (int64_t c = 0; c < count; c++)
        if (is_expert(id[c], E)) dw[c] += slope[c / of_part * E + id[c]];
}
