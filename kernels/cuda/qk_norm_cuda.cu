// RMS norm of queries and keys, group by group: a row is [ groups of q | groups of k | values ].
//
// THREADS threads own a row: a warp where a group is one head, a block where it is all of them. A
// thread has the same columns of every group, so that it alone adds the heads' shares of a weight.
// Bytes moved: the row once in and once out forward; backward the row, its gradient twice, and the
// weights' shares.
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/storage.cuh"

enum { QK_NORM_THREADS = 256 }; // of a block

typedef struct Groups {
    int64_t width;       // of a row
    int q_groups, count; // of a row, with those of k
    int q_width, k_width;
    float eps;
} Groups;

// First column of a group and how many it has.
__device__ static inline int first_of(Groups g, int group) {
    return group < g.q_groups ? group * g.q_width
                              : g.q_groups * g.q_width + (group - g.q_groups) * g.k_width;
}
__device__ static inline int width_of(Groups g, int group) {
    return group < g.q_groups ? g.q_width : g.k_width;
}

template <int THREADS> __device__ static inline float sum_of_row(float x, float *spare) {
    if constexpr (THREADS == WARP) {
        return warp_sum(x);
    } else {
        return block_sum(x, spare);
    }
}

template <typename T, int THREADS>
__global__ void __launch_bounds__(QK_NORM_THREADS)
    qk_norm_forward_kernel(T *out, float *rstd, const T *x, const float *q_weight,
                           const float *k_weight, int64_t rows, Groups g) {
    __shared__ float spare[WARP];
    int64_t row = ((int64_t)blockIdx.x * QK_NORM_THREADS + threadIdx.x) / THREADS;
    int thread = threadIdx.x % THREADS;
    if (row >= rows) return; // a whole warp, or no thread of a block
    const T *from = x + row * g.width;
    T *to = out + row * g.width;
    for (int group = 0; group < g.count; group++) {
        int first = first_of(g, group), width = width_of(g, group);
        const float *weight = group < g.q_groups ? q_weight : k_weight;
        float sum = 0.0f;
        for (int d = thread; d < width; d += THREADS) {
            float value = to_float(from[first + d]);
            sum += value * value;
        }
        float scale = 1.0f / sqrtf(sum_of_row<THREADS>(sum, spare) / width + g.eps);
        if (thread == 0) rstd[row * g.count + group] = scale;
        for (int d = thread; d < width; d += THREADS)
            to[first + d] = from_float<T>(to_float(from[first + d]) * scale * weight[d]);
    }
    for (int64_t c = g.q_groups * g.q_width + (g.count - g.q_groups) * g.k_width + thread;
         c < g.width; c += THREADS)
        to[c] = from[c];
}

// dx = rstd (g - x̂ mean(g x̂)), g = dout · weight, x̂ = x · rstd
template <typename T, int THREADS>
__global__ void __launch_bounds__(QK_NORM_THREADS)
    qk_norm_backward_kernel(T *dx, float *dq_weight, float *dk_weight, const T *x,
                            const float *rstd, const float *q_weight, const float *k_weight,
                            int64_t rows, Groups g) {
    __shared__ float spare[WARP];
    int64_t row = ((int64_t)blockIdx.x * QK_NORM_THREADS + threadIdx.x) / THREADS;
    int thread = threadIdx.x % THREADS;
    if (row >= rows) return; // a whole warp, or no thread of a block
    const T *from = x + row * g.width;
    T *to = dx + row * g.width;
    for (int group = 0; group < g.count; group++) {
        int first = first_of(g, group), width = width_of(g, group);
        bool is_query = group < g.q_groups, begins = group == 0 || group == g.q_groups;
        const float *weight = is_query ? q_weight : k_weight;
        float *dweight = is_query ? dq_weight + row * g.q_width : dk_weight + row * g.k_width;
        float scale = rstd[row * g.count + group], sum = 0.0f;
        for (int d = thread; d < width; d += THREADS)
            sum += to_float(to[first + d]) * weight[d] * to_float(from[first + d]);
        float slope = sum_of_row<THREADS>(sum, spare) * scale * scale / width;
        for (int d = thread; d < width; d += THREADS) {
            float dout = to_float(to[first + d]), value = to_float(from[first + d]);
            dweight[d] = (begins ? 0.0f : dweight[d]) + dout * (value * scale);
            to[first + d] = from_float<T>(scale * (dout * weight[d] - value * slope));
        }
    }
}

static Groups groups_of(AttentionShape s, QkNorm norm) {
    bool whole = norm.kind == QK_NORM_WHOLE;
    CHECK(attention_qkv_width(s) <= 1 << 30, "heads of %lld channels",
          (long long)attention_qkv_width(s));
    return {attention_qkv_width(s),
            whole ? 1 : (int)s.heads,
            (int)qk_norm_groups(s, norm.kind),
            (int)qk_norm_q_width(s, norm.kind),
            (int)qk_norm_k_width(s, norm.kind),
            norm.eps};
}

template <typename T, int THREADS>
static void forward(Device *dev, Tensor out, Tensor rstd, Tensor x, AttentionShape s, QkNorm norm) {
    launch(dev, qk_norm_forward_kernel<T, THREADS>,
           grid_of(ceil_div(x.shape[0] * THREADS, QK_NORM_THREADS)), dim3(QK_NORM_THREADS), 0,
           device_data<T>(out), device_data<float>(rstd), device_data<T>(x),
           device_data<float>(norm.q_weight), device_data<float>(norm.k_weight), x.shape[0],
           groups_of(s, norm));
}

template <typename T, int THREADS>
static void backward(Device *dev, Tensor dx, Tensor dq_weight, Tensor dk_weight, Tensor x,
                     Tensor rstd, AttentionShape s, QkNorm norm) {
    launch(dev, qk_norm_backward_kernel<T, THREADS>,
           grid_of(ceil_div(x.shape[0] * THREADS, QK_NORM_THREADS)), dim3(QK_NORM_THREADS), 0,
           device_data<T>(dx), device_data<float>(dq_weight), device_data<float>(dk_weight),
           device_data<T>(x), device_data<float>(rstd), device_data<float>(norm.q_weight),
           device_data<float>(norm.k_weight), x.shape[0], groups_of(s, norm));
}

void qk_norm_forward_cuda(Device *dev, Tensor out, Tensor rstd, Tensor x, AttentionShape s,
                          QkNorm norm) {
    if (norm.kind == QK_NORM_WHOLE) {
        (x.dtype == F32 ? forward<float, QK_NORM_THREADS>
                        : forward<bf16, QK_NORM_THREADS>)(dev, out, rstd, x, s, norm);
    } else {
        (x.dtype == F32 ? forward<float, WARP> : forward<bf16, WARP>)(dev, out, rstd, x, s, norm);
    }
}

void qk_norm_backward_cuda(Device *dev, Tensor dx, Tensor dq_weight, Tensor dk_weight, Tensor x,
                           Tensor rstd, AttentionShape s, QkNorm norm) {
    if (norm.kind == QK_NORM_WHOLE) {
        (x.dtype == F32
             ? backward<float, QK_NORM_THREADS>
             : backward<bf16, QK_NORM_THREADS>)(dev, dx, dq_weight, dk_weight, x, rstd, s, norm);
    } else {
        (x.dtype == F32 ? backward<float, WARP>
                        : backward<bf16, WARP>)(dev, dx, dq_weight, dk_weight, x, rstd, s, norm);
    }
}
