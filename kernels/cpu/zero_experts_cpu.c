#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/stored_rows.h"
#include "kernels/cpu/vector_math.h"

void keep_zero_choices_cpu(Device *dev, Tensor kept, Tensor travels, Tensor ids, int64_t E) {
    const int32_t *id = tensor_i32(ids);
    uint8_t *keep = tensor_u8(kept), *travel = tensor_u8(travels);
#pragma omp parallel for schedule(static)
    for (int64_t c = 0; c < tensor_elements(ids); c++) {
        bool is_zero = id[c] >= E;
        travel[c] = keep[c] != 0 && !is_zero;
        keep[c] = keep[c] != 0 || is_zero;
    }
}

// What a token's zero choices weigh together, in slot order; false when it has none.
static bool zero_weight(float *sum, const int32_t *ids, const float *weights, int64_t K,
                        int64_t E) {
    bool any = false;
    *sum = 0;
    for (int64_t k = 0; k < K; k++) {
        if (ids[k] < E) continue;
        *sum += weights[k];
        any = true;
    }
    return any;
}

// to[n] += weight · from[n]
static void add_row(Tensor to, Tensor from, int64_t n, float weight, float *room) {
    int64_t D = to.shape[1];
    const float *x = row_as_f32(from, n, room), *before = row_as_f32(to, n, room + D);
    float *sum = result_row(to, n, room + D);
#pragma omp simd
    for (int64_t d = 0; d < D; d++) sum[d] = before[d] + weight * x[d];
    finish_row(to, n, sum);
}

void identity_experts_forward_cpu(Device *dev, Tensor out, Tensor x, Tensor ids, Tensor weights,
                                  int64_t E) {
    int64_t N = x.shape[0], D = x.shape[1], K = ids.shape[1];
#pragma omp parallel
    {
        float *room = thread_scratch((size_t)(2 * D) * sizeof *room), weight;
#pragma omp for schedule(static)
        for (int64_t n = 0; n < N; n++)
            if (zero_weight(&weight, tensor_i32(ids) + n * K, tensor_f32(weights) + n * K, K, E))
                add_row(out, x, n, weight, room);
    }
}

void identity_experts_backward_cpu(Device *dev, Tensor dx, Tensor dweights, Tensor dout, Tensor x,
                                   Tensor ids, Tensor weights, int64_t E) {
    int64_t N = x.shape[0], D = x.shape[1], K = ids.shape[1];
#pragma omp parallel
    {
        float *room = thread_scratch((size_t)(2 * D) * sizeof *room), weight;
#pragma omp for schedule(static)
        for (int64_t n = 0; n < N; n++) {
            const int32_t *id = tensor_i32(ids) + n * K;
            if (!zero_weight(&weight, id, tensor_f32(weights) + n * K, K, E)) continue;
            float product = dot_product(row_as_f32(dout, n, room), row_as_f32(x, n, room + D), D);
            for (int64_t k = 0; k < K; k++)
                if (id[k] >= E) tensor_f32(dweights)[n * K + k] = product;
            add_row(dx, dout, n, weight, room);
        }
    }
}
