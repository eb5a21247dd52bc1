// Attention of one new token against the cache.
#include "kernels/cpu/attention_tile.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/scratch.h"

// One query against the cache, memory-bound: one thread a head, keys in order.
void attention_decode_cpu(Device *dev, Tensor out, Tensor qkv, Tensor cache, AttentionRule rule,
                          int64_t position) {
    AttentionShape s = rule.shape;
    int64_t W = cache.shape[1], first = first_key_seen(rule, position), keys = position + 1 - first;
    Stored x = stored(qkv), rows = stored_at(stored(cache), first * W), to = stored(out);
#pragma omp parallel for schedule(static)
    for (int64_t h = 0; h < s.heads; h++) {
        int64_t kv = h / (s.heads / s.kv_heads);
        Stored k = stored_at(rows, kv * s.d_head);
        Stored v = stored_at(rows, s.kv_heads * s.d_head + kv * s.d_value);
        float *p = thread_scratch((size_t)(keys + 2 * s.d_head + 2 * s.d_value) * sizeof *p);
        float *sum = p + keys, *v_room = sum + s.d_value, *q_room = v_room + s.d_value;
        const float *q = as_f32(stored_at(x, h * s.d_head), s.d_head, q_room);
        for (int64_t j = 0; j < keys; j++)
            p[j] =
                rule.scale *
                dot_product(q, as_f32(stored_at(k, j * W), s.d_head, q_room + s.d_head), s.d_head);
        SoftmaxStart start = softmax_start(rule, h);
        float largest = fmaxf(max_of(p, keys), start.largest);
        for (int64_t j = 0; j < keys; j++) p[j] = exp_f32(p[j] - largest);
        float more = start.normaliser * exp_f32(start.largest - largest);
        float inverse = 1.0f / (sum_of(p, keys) + more);
        memset(sum, 0, (size_t)s.d_value * sizeof *sum);
        for (int64_t j = 0; j < keys; j++) {
            const float *value = as_f32(stored_at(v, j * W), s.d_value, v_room);
            for (int64_t c = 0; c < s.d_value; c++) sum[c] += p[j] * inverse * value[c];
        }
        store_row(stored_at(to, h * s.d_value), sum, s.d_value);
    }
}
