#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/storage.cuh"

static const int THREADS = 256, ROWS = THREADS / WARP; // rows of a block: a warp each

// A thread owns a choice. Bytes: 5 in and 2 out, the minimum.
__global__ static void __launch_bounds__(THREADS)
    keep_zero_kernel(uint8_t *__restrict__ kept, uint8_t *__restrict__ travels,
                     const int32_t *__restrict__ ids, int64_t choices, int E) {
    int64_t c = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (c >= choices) return;
    bool is_zero = ids[c] >= E, keep = kept[c] != 0;
    travels[c] = keep && !is_zero;
    kept[c] = keep || is_zero;
}

void keep_zero_choices_cuda(Device *dev, Tensor kept, Tensor travels, Tensor ids, int64_t E) {
    int64_t choices = tensor_elements(ids);
    launch(dev, keep_zero_kernel, grid_of(ceil_div(choices, THREADS)), dim3(THREADS), 0,
           device_data<uint8_t>(kept), device_data<uint8_t>(travels), device_data<int32_t>(ids),
           choices, E);
}

typedef struct ZeroChoices {
    const int32_t *ids; // (N, K)
    const float *weights;
    int K, E;
} ZeroChoices;

// What a token's zero choices weigh together, in slot order, as the CPU adds them; false when it
// has none. Every lane reads all K: neighbouring addresses, and the same for the warp.
__device__ static inline bool zero_weight(float *sum, ZeroChoices c, int64_t n) {
    bool any = false;
    *sum = 0.0f;
    for (int k = 0; k < c.K; k++) {
        if (c.ids[n * c.K + k] < c.E) continue;
        *sum += c.weights[n * c.K + k];
        any = true;
    }
    return any;
}

// A warp owns a row, a lane its runs of 16 bytes, a warp's width apart: elements are independent.
// Bytes: 8 a choice; of tokens with zero choices x and out once in, out once out.
template <typename T, bool VECTORS>
__global__ void __launch_bounds__(THREADS)
    identity_forward_kernel(T *out, const T *__restrict__ x, ZeroChoices choices, int64_t N,
                            int D) {
    constexpr int WIDTH = Vector<T>::COUNT;
    int64_t n = (int64_t)blockIdx.x * ROWS + threadIdx.x / WARP;
    float weight;
    if (n >= N || !zero_weight(&weight, choices, n)) return; // the whole warp
    for (int d = (int)(threadIdx.x % WARP) * WIDTH; d < D; d += WARP * WIDTH) {
        float value[WIDTH], sum[WIDTH];
        load_run<VECTORS, WIDTH>(value, x + n * D, d, D);
        load_run<VECTORS, WIDTH>(sum, out + n * D, d, D);
#pragma unroll
        for (int i = 0; i < WIDTH; i++) sum[i] += weight * value[i];
        store_run<VECTORS, WIDTH>(out + n * D, sum, d, D);
    }
}

// Likewise; a lane adds the products of its runs, then the warp its lanes. Bytes: of tokens with
// zero choices dout, x and dx once in, dx once out.
template <typename T, bool VECTORS>
__global__ void __launch_bounds__(THREADS)
    identity_backward_kernel(T *dx, float *__restrict__ dweights, const T *__restrict__ dout,
                             const T *__restrict__ x, ZeroChoices choices, int64_t N, int D) {
    constexpr int WIDTH = Vector<T>::COUNT;
    int64_t n = (int64_t)blockIdx.x * ROWS + threadIdx.x / WARP;
    float weight, product = 0.0f;
    if (n >= N || !zero_weight(&weight, choices, n)) return; // the whole warp
    for (int d = (int)(threadIdx.x % WARP) * WIDTH; d < D; d += WARP * WIDTH) {
        float value[WIDTH], gradient[WIDTH], sum[WIDTH];
        load_run<VECTORS, WIDTH>(value, x + n * D, d, D);
        load_run<VECTORS, WIDTH>(gradient, dout + n * D, d, D);
        load_run<VECTORS, WIDTH>(sum, dx + n * D, d, D);
#pragma unroll
        for (int i = 0; i < WIDTH; i++) {
            product += gradient[i] * value[i];
            sum[i] += weight * gradient[i];
        }
        store_run<VECTORS, WIDTH>(dx + n * D, sum, d, D);
    }
    product = warp_sum(product);
    for (int k = (int)(threadIdx.x % WARP); k < choices.K; k += WARP)
        if (choices.ids[n * choices.K + k] >= choices.E) dweights[n * choices.K + k] = product;
}

static ZeroChoices choices_of(Tensor ids, Tensor weights, int64_t E) {
    return {device_data<int32_t>(ids), device_data<float>(weights), (int)ids.shape[1], (int)E};
}

template <typename T> static void forward(Device *dev, Tensor out, Tensor x, ZeroChoices choices) {
    int64_t N = x.shape[0], D = x.shape[1];
    bool vectors = rows_are_vectors<T>(out.data, D) && rows_are_vectors<T>(x.data, D);
    launch(dev, vectors ? identity_forward_kernel<T, true> : identity_forward_kernel<T, false>,
           grid_of(ceil_div(N, ROWS)), dim3(THREADS), 0, device_data<T>(out), device_data<T>(x),
           choices, N, D);
}

template <typename T>
static void backward(Device *dev, Tensor dx, Tensor dweights, Tensor dout, Tensor x,
                     ZeroChoices choices) {
    int64_t N = x.shape[0], D = x.shape[1];
    bool vectors = rows_are_vectors<T>(dx.data, D) && rows_are_vectors<T>(dout.data, D) &&
                   rows_are_vectors<T>(x.data, D);
    launch(dev, vectors ? identity_backward_kernel<T, true> : identity_backward_kernel<T, false>,
           grid_of(ceil_div(N, ROWS)), dim3(THREADS), 0, device_data<T>(dx),
           device_data<float>(dweights), device_data<T>(dout), device_data<T>(x), choices, N, D);
}

void identity_experts_forward_cuda(Device *dev, Tensor out, Tensor x, Tensor ids, Tensor weights,
                                   int64_t E) {
    (x.dtype == F32 ? forward<float> : forward<bf16>)(dev, out, x, choices_of(ids, weights, E));
}

void identity_experts_backward_cuda(Device *dev, Tensor dx, Tensor dweights, Tensor dout, Tensor x,
                                    Tensor ids, Tensor weights, int64_t E) {
    (x.dtype == F32 ? backward<float> : backward<bf16>)(dev, dx, dweights, dout, x,
                                                        choices_of(ids, weights, E));
}
