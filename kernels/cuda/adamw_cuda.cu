#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/update.cuh"

// One element's update.
__device__ static inline void update_element(float *w, float *m, float *v, float g, float lr,
                                             float weight_decay, float m_scale, float v_scale,
                                             const AdamW &rule) {
    *m = rule.beta1 * *m + (1.0f - rule.beta1) * g;
    *v = rule.beta2 * *v + (1.0f - rule.beta2) * g * g;
    float step = *m * m_scale / (sqrtf(*v * v_scale) + rule.eps);
    *w -= lr * (step + weight_decay * *w);
}

// One launch for all parameters of a run. A thread owns four consecutive elements: 16 bytes of w,
// g, m and v, 8 of the copy, and a quarter of a group number. Reads w, g, m, v and writes w, m, v
// and the copy once: 28 or 30 bytes an element, the minimum, and what the time goes to. No element
// depends on another.
__global__ void __launch_bounds__(THREADS)
    adamw_kernel(float *w, bf16 *copy, const float *g, float *m, float *v, const uint8_t *groups,
                 int64_t n, AdamW rule) {
    int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * PER_THREAD;
    if (i >= n) return;
    float weight[PER_THREAD], gradient[PER_THREAD], first[PER_THREAD], second[PER_THREAD];
    load_four(weight, w + i);
    load_four(gradient, g + i);
    load_four(first, m + i);
    load_four(second, v + i);
    int group = groups[i / UNIT];
    float lr = rule.lr[group], weight_decay = rule.weight_decay[group];
    float m_scale = 1.0f / rule.bias_correction1, v_scale = 1.0f / rule.bias_correction2;
#pragma unroll
    for (int j = 0; j < PER_THREAD; j++) {
        update_element(&weight[j], &first[j], &second[j], gradient[j] * rule.grad_scale, lr,
                       weight_decay, m_scale, v_scale, rule);
    }
    store_four(m + i, first);
    store_four(v + i, second);
    store_four(w + i, weight);
    if (copy) store_four(copy + i, weight);
}

void adamw_update_cuda(Device *dev, Tensor w, Tensor copy, Tensor g, Tensor m, Tensor v,
                       Tensor groups, AdamW rule) {
    int64_t n = w.shape[0];
    bf16 *rounded = copy.data ? aligned_data<bf16>(copy, "copy") : nullptr;
    launch(dev, adamw_kernel, grid_of(ceil_div(n, THREADS * PER_THREAD)), THREADS, 0,
           aligned_data<float>(w, "w"), rounded, aligned_data<float>(g, "g"),
           aligned_data<float>(m, "m"), aligned_data<float>(v, "v"), device_data<uint8_t>(groups),
           n, rule);
}

typedef struct RowUpdates {
    int32_t *updates;     // of each row
    const float *history; // (…, UPDATE_HISTORY)
    int count;
    const int32_t *marks, *listed; // which rows; both NULL: all
} RowUpdates;

__device__ static inline bool is_chosen(const RowUpdates &rows, int64_t r) {
    if (rows.listed) return rows.listed[r + 1] > rows.listed[r];
    return !rows.marks || rows.marks[r] != 0;
}

// A warp has a row, a lane an element of it in 32, which has all its updates in registers. Reads
// and writes w, m, v of the rows that lag, once however many updates they lack.
__global__ void __launch_bounds__(THREADS)
    adamw_rows_kernel(float *w, bf16 *copy, const float *g, float *m, float *v, int64_t R, int D,
                      RowUpdates rows, AdamW rule) {
    int64_t r = ((int64_t)blockIdx.x * THREADS + threadIdx.x) / WARP;
    if (r >= R || !is_chosen(rows, r)) return; // the whole warp
    int first = rows.updates[r], replayed = g ? rows.count - 1 : rows.count;
    if (first == rows.count) return;
    for (int d = (int)threadIdx.x % WARP; d < D; d += WARP) {
        int64_t at = r * D + d;
        float weight = w[at], own_m = m[at], own_v = v[at];
        for (int i = first; i < rows.count; i++) {
            const float *update = rows.history + i * UPDATE_HISTORY;
            float gradient = i == replayed ? g[at] * rule.grad_scale : 0.0f;
            update_element(&weight, &own_m, &own_v, gradient, update[0], update[1], update[2],
                           update[3], rule);
        }
        w[at] = weight;
        m[at] = own_m;
        v[at] = own_v;
        if (copy) copy[at] = from_float<bf16>(weight);
    }
    __syncwarp();
    if (threadIdx.x % WARP == 0) rows.updates[r] = rows.count;
}

void adamw_rows_cuda(Device *dev, Tensor w, Tensor copy, Tensor g, Tensor m, Tensor v,
                     LaggingRows rows, AdamW rule) {
    int64_t R = w.shape[0];
    RowUpdates lagging = {device_data<int32_t>(rows.updates), device_data<float>(rows.history),
                          (int)rows.count,
                          rows.marks.data ? device_data<int32_t>(rows.marks) : NULL,
                          rows.listed.data ? device_data<int32_t>(rows.listed) : NULL};
    launch(dev, adamw_rows_kernel, grid_of(ceil_div(R * WARP, THREADS)), THREADS, 0,
           device_data<float>(w), copy.data ? device_data<bf16>(copy) : nullptr,
           g.data ? device_data<float>(g) : nullptr, device_data<float>(m), device_data<float>(v),
           R, w.shape[1], lagging, rule);
}
