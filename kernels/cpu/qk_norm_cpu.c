// RMS norm of queries and keys, group by group: a row is [ groups of q | groups of k | values ].
#include <math.h>
#include <string.h>

#include "kernels/cpu/bf16.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/vector_math.h"

// A group of a row and the weight that it is multiplied by.
typedef struct Group {
    int64_t first, width; // columns
    bool is_key;
} Group;

static Group group_at(AttentionShape s, QkNorm norm, int64_t i) {
    int64_t q = s.heads * s.d_head;
    if (norm.kind == QK_NORM_WHOLE)
        return i == 0 ? (Group){0, q, false} : (Group){q, s.kv_heads * s.d_head, true};
    return (Group){i * s.d_head, s.d_head, i >= s.heads};
}

// The columns that are normalised.
static int64_t turned_width(AttentionShape s) {
    return (s.heads + s.kv_heads) * s.d_head;
}

static const float *weight_of(QkNorm norm, Group group) {
    return tensor_f32(group.is_key ? norm.k_weight : norm.q_weight);
}

void qk_norm_forward_cpu(Device *dev, Tensor out, Tensor rstd, Tensor x, AttentionShape s,
                         QkNorm norm) {
    int64_t N = x.shape[0], W = x.shape[1], width = turned_width(s), groups = rstd.shape[1];
    bool narrow = x.dtype == BF16;
    size_t size = dtype_bytes(x.dtype);
    float *scales = tensor_f32(rstd);
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < N; n++) {
        float *spare = narrow ? thread_scratch((size_t)width * sizeof *spare) : NULL;
        const float *row = narrow ? spare : tensor_f32(x) + n * W;
        float *to = narrow ? spare : tensor_f32(out) + n * W;
        if (narrow) widen_bf16(spare, tensor_bf16(x) + n * W, width);
        for (int64_t i = 0; i < groups; i++) {
            Group group = group_at(s, norm, i);
            const float *in = row + group.first, *weight = weight_of(norm, group);
            float mean = dot_product(in, in, group.width) / (float)group.width;
            float scale = scales[n * groups + i] = 1.0f / sqrtf(mean + norm.eps);
            for (int64_t d = 0; d < group.width; d++)
                to[group.first + d] = in[d] * scale * weight[d];
        }
        if (narrow) round_to_bf16(tensor_bf16(out) + n * W, spare, width);
        size_t values = (size_t)(n * W + width) * size;
        memcpy((char *)out.data + values, (const char *)x.data + values,
               (size_t)(W - width) * size);
    }
}

// dx = rstd (g - x̂ mean(g x̂)), g = dout · weight, x̂ = x · rstd; dx comes as dout. The terms
// dout · x̂ are added to dweight.
static void backward_group(float *restrict dx, float *restrict dweight, const float *restrict x,
                           float rstd, const float *restrict weight, int64_t width) {
    Lanes sums = {0};
    int64_t d = 0;
    for (; d + LANES <= width; d += LANES)
        sums = lanes_fma(lanes_load(dx + d) * lanes_load(weight + d), lanes_load(x + d), sums);
    float sum = lanes_sum(sums);
    for (; d < width; d++) sum += dx[d] * weight[d] * x[d];
    float slope = sum * rstd * rstd / (float)width;
    for (d = 0; d < width; d++) {
        float dout = dx[d];
        dweight[d] += dout * (x[d] * rstd);
        dx[d] = rstd * (dout * weight[d] - x[d] * slope);
    }
}

void qk_norm_backward_cpu(Device *dev, Tensor dx, Tensor dq_weight, Tensor dk_weight, Tensor x,
                          Tensor rstd, AttentionShape s, QkNorm norm) {
    int64_t N = x.shape[0], W = x.shape[1], width = turned_width(s), groups = rstd.shape[1];
    int64_t q_width = dq_weight.shape[1], k_width = dk_weight.shape[1];
    bool narrow = x.dtype == BF16;
    const float *scales = tensor_f32(rstd);
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < N; n++) {
        float *spare = narrow ? thread_scratch((size_t)(2 * width) * sizeof *spare) : NULL;
        const float *row = narrow ? spare + width : tensor_f32(x) + n * W;
        float *to = narrow ? spare : tensor_f32(dx) + n * W;
        float *dq = tensor_f32(dq_weight) + n * q_width, *dk = tensor_f32(dk_weight) + n * k_width;
        if (narrow) {
            widen_bf16(spare, tensor_bf16(dx) + n * W, width);
            widen_bf16(spare + width, tensor_bf16(x) + n * W, width);
        }
        memset(dq, 0, (size_t)q_width * sizeof *dq);
        memset(dk, 0, (size_t)k_width * sizeof *dk);
        for (int64_t i = 0; i < groups; i++) {
            Group group = group_at(s, norm, i);
            backward_group(to + group.first, group.is_key ? dk : dq, row + group.first,
                           scales[n * groups + i], weight_of(norm, group), group.width);
        }
        if (narrow) round_to_bf16(tensor_bf16(dx) + n * W, spare, width);
    }
}
