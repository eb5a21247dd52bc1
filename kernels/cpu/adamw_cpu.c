#include <math.h>

#include "kernels/cpu/bf16.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/marked_rows.h"
#include "kernels/cpu/vector_math.h"

// One element's update.
static inline void update_element(float *w, float *m, float *v, float g, float lr,
                                  float weight_decay, float m_scale, float v_scale, AdamW rule) {
    float mi = rule.beta1 * *m + (1.0f - rule.beta1) * g;
    float vi = rule.beta2 * *v + (1.0f - rule.beta2) * g * g;
    *m = mi;
    *v = vi;
    float step = mi * m_scale / (sqrtf(vi * v_scale) + rule.eps);
    *w -= lr * (step + weight_decay * *w);
}

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
    float m_scale = 1.0f / rule.bias_correction1, v_scale = 1.0f / rule.bias_correction2;
#pragma omp parallel for schedule(static)
    for (int64_t u = 0; u < units; u++) {
        float lr = rule.lr[group[u]], weight_decay = rule.weight_decay[group[u]];
#pragma omp simd
        for (int64_t i = u * UNIT; i < (u + 1) * UNIT; i++) {
            float gi = gradient[i] * rule.grad_scale;
            update_element(&weight[i], &first[i], &second[i], gi, lr, weight_decay, m_scale,
                           v_scale, rule);
        }
        if (rounded) round_to_bf16(rounded + u * UNIT, weight + u * UNIT, UNIT);
    }
}

// ---- some rows ----------------------------------------------------------------------------------

enum { BLOCK = 64 }; // elements that have all their updates one after another, in the cache

// As decay_block; the weights stay in registers, for rows that lack many updates.
static void decay_whole_block(float *w, const float *history, int64_t count) {
    Lanes held[BLOCK / LANES];
    memcpy(held, w, sizeof held);
    for (int64_t i = 0; i < count; i++) {
        Lanes lr = lanes_set(history[i * UPDATE_HISTORY]);
        Lanes weight_decay = lanes_set(history[i * UPDATE_HISTORY + 1]);
        if (history[i * UPDATE_HISTORY + 1] == 0.0f) continue;
        for (int k = 0; k < BLOCK / LANES; k++) held[k] -= lr * (weight_decay * held[k]);
    }
    memcpy(w, held, sizeof held);
}

// Updates of a block of n elements with a gradient of zero, where m and v are zero: weights decay.
static void decay_block(float *w, int64_t n, const float *history, int64_t count) {
    if (n == BLOCK) {
        decay_whole_block(w, history, count);
        return;
    }
    for (int64_t i = 0; i < count; i++) {
        float lr = history[i * UPDATE_HISTORY], weight_decay = history[i * UPDATE_HISTORY + 1];
        if (weight_decay == 0.0f) continue;
#pragma omp simd
        for (int64_t k = 0; k < n; k++) w[k] -= lr * (weight_decay * w[k]);
    }
}

static bool all_zero(const float *x, int64_t n) {
    int any = 0;
    for (int64_t k = 0; k < n; k++) any |= x[k] != 0.0f;
    return !any;
}

static void update_block(float *w, float *m, float *v, const float *g, int64_t n,
                         const float *history, AdamW rule) {
    float lr = history[0], weight_decay = history[1], m_scale = history[2], v_scale = history[3];
#pragma omp simd
    for (int64_t k = 0; k < n; k++)
        update_element(&w[k], &m[k], &v[k], g[k] * rule.grad_scale, lr, weight_decay, m_scale,
                       v_scale, rule);
}

// Whether any of the rows [first, end) is to be brought up to date.
static inline bool any_chosen(const int32_t *marks, const int32_t *listed, int64_t first,
                              int64_t end) {
    if (listed) return any_listed(listed, first, end);
    return !marks || any_marked(marks, first, end);
}

// What a block lacks: updates without a gradient.
static void replay_block(float *w, float *m, float *v, int64_t n, const float *history,
                         int64_t count, AdamW rule) {
    static const float zeros[BLOCK];
    if (all_zero(m, n) && all_zero(v, n)) {
        decay_block(w, n, history, count);
        return;
    }
    for (int64_t i = 0; i < count; i++)
        update_block(w, m, v, zeros, n, history + i * UPDATE_HISTORY, rule);
}

// Row r, which lacks the updates from `first` on.
static void update_row(Tensor w, Tensor copy, Tensor g, Tensor m, Tensor v, LaggingRows rows,
                       AdamW rule, int64_t r, int64_t first) {
    const float *history = tensor_f32(rows.history);
    int64_t D = w.shape[1], replayed = g.data ? rows.count - 1 : rows.count;
    float *wr = tensor_f32(w) + r * D, *mr = tensor_f32(m) + r * D, *vr = tensor_f32(v) + r * D;
    const float *gr = g.data ? tensor_f32(g) + r * D : NULL;
    for (int64_t d = 0; d < D; d += BLOCK) {
        int64_t n = smaller(D - d, BLOCK);
        if (first < replayed)
            replay_block(wr + d, mr + d, vr + d, n, history + first * UPDATE_HISTORY,
                         replayed - first, rule);
        if (gr)
            update_block(wr + d, mr + d, vr + d, gr + d, n, history + replayed * UPDATE_HISTORY,
                         rule);
    }
    if (copy.data) round_to_bf16(tensor_bf16(copy) + r * D, wr, D);
}

void adamw_rows_cpu(Device *dev, Tensor w, Tensor copy, Tensor g, Tensor m, Tensor v,
                    LaggingRows rows, AdamW rule) {
    int64_t R = w.shape[0];
    int32_t *updates = tensor_i32(rows.updates);
    const int32_t *marks = rows.marks.data ? tensor_i32(rows.marks) : NULL;
    const int32_t *listed = rows.listed.data ? tensor_i32(rows.listed) : NULL;
#pragma omp parallel for schedule(dynamic, 4)
    for (int64_t first = 0; first < R; first += ROW_RUN) {
        int64_t end = row_run_end(first, R);
        if (!any_chosen(marks, listed, first, end)) continue;
        for (int64_t r = first; r < end; r++) {
            if (!any_chosen(marks, listed, r, r + 1) || updates[r] == rows.count) continue;
            update_row(w, copy, g, m, v, rows, rule, r, updates[r]);
            updates[r] = (int32_t)rows.count;
        }
    }
}
