#include "kernels/cpu/bf16.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/scratch.h"

// Turns the pairs (a[i], b[i]) by the position's angles.
static void rotate(float *restrict a, float *restrict b, const float *restrict cosine,
                   const float *restrict sine, int64_t half, float sign) {
    for (int64_t i = 0; i < half; i++) {
        float x = a[i], y = b[i], s = sign * sine[i];
        a[i] = x * cosine[i] - y * s;
        b[i] = y * cosine[i] + x * s;
    }
}

void rope_cpu(Device *dev, Tensor qkv, AttentionShape s, Tensor cosines, Tensor sines,
              RowPositions at, bool inverse) {
    int64_t N = qkv.shape[0], W = qkv.shape[1], half = cosines.shape[1];
    int64_t heads = s.heads + s.kv_heads; // the key heads follow the query heads in the row
    bool narrow = qkv.dtype == BF16;
    float *x = narrow ? NULL : tensor_f32(qkv), sign = inverse ? -1.0f : 1.0f;
    uint16_t *stored = narrow ? tensor_bf16(qkv) : NULL;
    const int32_t *of_rows = at.of_rows.data ? tensor_i32(at.of_rows) : NULL;
    const float *cosine = tensor_f32(cosines), *sine = tensor_f32(sines);
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < N; n++) {
        int64_t position = of_rows ? of_rows[n] : at.first + n % at.T;
        float *row = narrow ? thread_scratch((size_t)(heads * s.d_head) * sizeof *row) : x + n * W;
        if (narrow) widen_bf16(row, stored + n * W, heads * s.d_head);
        for (int64_t h = 0; h < heads; h++) {
            float *head = row + h * s.d_head;
            rotate(head, head + half, cosine + position * half, sine + position * half, half, sign);
        }
        if (narrow) round_to_bf16(stored + n * W, row, heads * s.d_head);
    }
}
