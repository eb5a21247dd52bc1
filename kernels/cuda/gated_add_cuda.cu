#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/storage.cuh"

static const int THREADS = 256, ROWS = THREADS / WARP; // rows of a block: a warp each

__device__ static inline float sigmoid(float x) {
    return 1.0f / (1.0f + expf(-x));
}

// A warp owns a row, a lane its runs of 16 bytes, a warp's width apart: elements are independent.
// Bytes: y and out once in, out once out.
template <typename T, bool VECTORS>
__global__ void __launch_bounds__(THREADS)
    gated_add_forward_kernel(T *out, const T *__restrict__ y, const float *__restrict__ logits,
                             int64_t N, int D) {
    constexpr int WIDTH = Vector<T>::COUNT;
    int64_t n = (int64_t)blockIdx.x * ROWS + threadIdx.x / WARP;
    if (n >= N) return;
    float gate = sigmoid(logits[n]);
    for (int d = (int)(threadIdx.x % WARP) * WIDTH; d < D; d += WARP * WIDTH) {
        float value[WIDTH], sum[WIDTH];
        load_run<VECTORS, WIDTH>(value, y + n * D, d, D);
        load_run<VECTORS, WIDTH>(sum, out + n * D, d, D);
#pragma unroll
        for (int i = 0; i < WIDTH; i++) sum[i] += gate * value[i];
        store_run<VECTORS, WIDTH>(out + n * D, sum, d, D);
    }
}

// Likewise; a lane adds the products of its runs, then the warp its lanes. dy may be dout: a lane
// writes where it has read itself. Bytes: dout and y once in, dy once out.
template <typename T, bool VECTORS>
__global__ void __launch_bounds__(THREADS)
    gated_add_backward_kernel(T *dy, float *__restrict__ dlogits, const T *dout,
                              const T *__restrict__ y, const float *__restrict__ logits, int64_t N,
                              int D) {
    constexpr int WIDTH = Vector<T>::COUNT;
    int64_t n = (int64_t)blockIdx.x * ROWS + threadIdx.x / WARP;
    if (n >= N) return;
    float gate = sigmoid(logits[n]), product = 0.0f;
    for (int d = (int)(threadIdx.x % WARP) * WIDTH; d < D; d += WARP * WIDTH) {
        float value[WIDTH], gradient[WIDTH];
        load_run<VECTORS, WIDTH>(value, y + n * D, d, D);
        load_run<VECTORS, WIDTH>(gradient, dout + n * D, d, D);
#pragma unroll
        for (int i = 0; i < WIDTH; i++) {
            product += gradient[i] * value[i];
            gradient[i] *= gate;
        }
        store_run<VECTORS, WIDTH>(dy + n * D, gradient, d, D);
    }
    product = warp_sum(product);
    if (threadIdx.x % WARP == 0) dlogits[n] = gate * (1.0f - gate) * product;
}

template <typename T> static void forward(Device *dev, Tensor out, Tensor y, Tensor logits) {
    int64_t N = y.shape[0], D = y.shape[1];
    bool vectors = rows_are_vectors<T>(out.data, D) && rows_are_vectors<T>(y.data, D);
    launch(dev, vectors ? gated_add_forward_kernel<T, true> : gated_add_forward_kernel<T, false>,
           grid_of(ceil_div(N, ROWS)), dim3(THREADS), 0, device_data<T>(out), device_data<T>(y),
           device_data<float>(logits), N, D);
}

template <typename T>
static void backward(Device *dev, Tensor dy, Tensor dlogits, Tensor dout, Tensor y, Tensor logits) {
    int64_t N = y.shape[0], D = y.shape[1];
    bool vectors = rows_are_vectors<T>(dy.data, D) && rows_are_vectors<T>(dout.data, D) &&
                   rows_are_vectors<T>(y.data, D);
    launch(dev, vectors ? gated_add_backward_kernel<T, true> : gated_add_backward_kernel<T, false>,
           grid_of(ceil_div(N, ROWS)), dim3(THREADS), 0, device_data<T>(dy),
           device_data<float>(dlogits), device_data<T>(dout), device_data<T>(y),
           device_data<float>(logits), N, D);
}

void gated_add_forward_cuda(Device *dev, Tensor out, Tensor y, Tensor logits) {
    (y.dtype == F32 ? forward<float> : forward<bf16>)(dev, out, y, logits);
}

void gated_add_backward_cuda(Device *dev, Tensor dy, Tensor dlogits, Tensor dout, Tensor y,
                             Tensor logits) {
    (y.dtype == F32 ? backward<float> : backward<bf16>)(dev, dy, dlogits, dout, y, logits);
}
