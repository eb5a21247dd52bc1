#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/storage.cuh"

static const int THREADS = 256, ROWS = THREADS / WARP; // rows of a block: a warp each

// The share of a; that of b is the one with the logits exchanged.
__device__ static inline float share_of(float own, float other) {
    return 1.0f / (1.0f + expf(other - own));
}

// A warp owns a row, a lane its runs of 16 bytes, a warp's width apart: elements are independent,
// and out may be a. Bytes: a and b once in, out once out.
template <typename T, bool VECTORS>
__global__ void __launch_bounds__(THREADS)
    mix_forward_kernel(T *out, const T *a, const T *__restrict__ b,
                       const float *__restrict__ logits, int64_t N, int D) {
    constexpr int WIDTH = Vector<T>::COUNT;
    int64_t n = (int64_t)blockIdx.x * ROWS + threadIdx.x / WARP;
    if (n >= N) return;
    float of_a = share_of(logits[2 * n], logits[2 * n + 1]);
    float of_b = share_of(logits[2 * n + 1], logits[2 * n]);
    for (int d = (int)(threadIdx.x % WARP) * WIDTH; d < D; d += WARP * WIDTH) {
        float value[WIDTH], other[WIDTH];
        load_run<VECTORS, WIDTH>(value, a + n * D, d, D);
        load_run<VECTORS, WIDTH>(other, b + n * D, d, D);
#pragma unroll
        for (int i = 0; i < WIDTH; i++) value[i] = of_a * value[i] + of_b * other[i];
        store_run<VECTORS, WIDTH>(out + n * D, value, d, D);
    }
}

// Likewise; a lane adds the products of its runs, then the warp its lanes. Bytes: dout, a and b
// once in, da and db once out.
template <typename T, bool VECTORS>
__global__ void __launch_bounds__(THREADS)
    mix_backward_kernel(T *__restrict__ da, T *__restrict__ db, float *__restrict__ dlogits,
                        const T *__restrict__ dout, const T *__restrict__ a,
                        const T *__restrict__ b, const float *__restrict__ logits, int64_t N,
                        int D) {
    constexpr int WIDTH = Vector<T>::COUNT;
    int64_t n = (int64_t)blockIdx.x * ROWS + threadIdx.x / WARP;
    if (n >= N) return;
    float of_a = share_of(logits[2 * n], logits[2 * n + 1]);
    float of_b = share_of(logits[2 * n + 1], logits[2 * n]), product = 0.0f;
    for (int d = (int)(threadIdx.x % WARP) * WIDTH; d < D; d += WARP * WIDTH) {
        float value[WIDTH], other[WIDTH], gradient[WIDTH];
        load_run<VECTORS, WIDTH>(value, a + n * D, d, D);
        load_run<VECTORS, WIDTH>(other, b + n * D, d, D);
        load_run<VECTORS, WIDTH>(gradient, dout + n * D, d, D);
#pragma unroll
        for (int i = 0; i < WIDTH; i++) {
            product += gradient[i] * (value[i] - other[i]);
            value[i] = of_a * gradient[i];
            other[i] = of_b * gradient[i];
        }
        store_run<VECTORS, WIDTH>(da + n * D, value, d, D);
        store_run<VECTORS, WIDTH>(db + n * D, other, d, D);
    }
    product = warp_sum(product);
    if (threadIdx.x % WARP != 0) return;
    dlogits[2 * n] = of_a * of_b * product;
    dlogits[2 * n + 1] = -(of_a * of_b * product);
}

template <typename T>
static void forward(Device *dev, Tensor out, Tensor a, Tensor b, Tensor logits) {
    int64_t N = out.shape[0], D = out.shape[1];
    bool vectors = rows_are_vectors<T>(out.data, D) && rows_are_vectors<T>(a.data, D) &&
                   rows_are_vectors<T>(b.data, D);
    launch(dev, vectors ? mix_forward_kernel<T, true> : mix_forward_kernel<T, false>,
           grid_of(ceil_div(N, ROWS)), dim3(THREADS), 0, device_data<T>(out), device_data<T>(a),
           device_data<T>(b), device_data<float>(logits), N, D);
}

template <typename T>
static void backward(Device *dev, Tensor da, Tensor db, Tensor dlogits, Tensor dout, Tensor a,
                     Tensor b, Tensor logits) {
    int64_t N = dout.shape[0], D = dout.shape[1];
    bool vectors = rows_are_vectors<T>(da.data, D) && rows_are_vectors<T>(db.data, D) &&
                   rows_are_vectors<T>(dout.data, D) && rows_are_vectors<T>(a.data, D) &&
                   rows_are_vectors<T>(b.data, D);
    launch(dev, vectors ? mix_backward_kernel<T, true> : mix_backward_kernel<T, false>,
           grid_of(ceil_div(N, ROWS)), dim3(THREADS), 0, device_data<T>(da), device_data<T>(db),
           device_data<float>(dlogits), device_data<T>(dout), device_data<T>(a), device_data<T>(b),
           device_data<float>(logits), N, D);
}

void mix_forward_cuda(Device *dev, Tensor out, Tensor a, Tensor b, Tensor logits) {
    (out.dtype == F32 ? forward<float> : forward<bf16>)(dev, out, a, b, logits);
}

void mix_backward_cuda(Device *dev, Tensor da, Tensor db, Tensor dlogits, Tensor dout, Tensor a,
                       Tensor b, Tensor logits) {
    (dout.dtype == F32 ? backward<float> : backward<bf16>)(dev, da, db, dlogits, dout, a, b,
                                                           logits);
}
