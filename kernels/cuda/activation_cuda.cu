#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/storage.cuh"

// All four kernels: a row of F is cut into runs of WIDTH elements, 16 bytes of T; a block has
// BLOCK_RUNS of all rows' runs, one after another in memory, and each of its threads RUNS of them,
// a block's width apart. Every element is read and written once, 16 bytes at a time where rows are
// aligned. Elements are independent: nothing is summed.
static const int THREADS = 256, RUNS = 4, BLOCK_RUNS = THREADS * RUNS;

// Where the i-th of a thread's runs lies: row and first element; false past the last row. The
// 64-bit division is the same for all i and done once.
template <int WIDTH>
__device__ static inline bool find_run(int i, int64_t N, int F, int64_t *row, int *f) {
    unsigned runs_of_row = (F + WIDTH - 1) / WIDTH;
    int64_t first = (int64_t)blockIdx.x * BLOCK_RUNS, first_row = first / runs_of_row;
    unsigned run = (unsigned)(first - first_row * runs_of_row) + i * THREADS + threadIdx.x;
    *row = first_row + run / runs_of_row;
    *f = (int)(run % runs_of_row) * WIDTH;
    return *row < N;
}

// 1 / (1 + e^-x): 0 and 1 where the exponential over- or underflows.
__device__ static inline float sigmoid(float x) {
    return 1.0f / (1.0f + expf(-x));
}

template <typename T, bool VECTORS>
__global__ void __launch_bounds__(THREADS)
    swiglu_forward_kernel(T *out, const T *__restrict__ in, int64_t N, int F) {
    constexpr int WIDTH = Vector<T>::COUNT;
    for (int r = 0; r < RUNS; r++) {
        int64_t n;
        int f;
        if (!find_run<WIDTH>(r, N, F, &n, &f)) return;
        float gate[WIDTH], up[WIDTH];
        load_run<VECTORS, WIDTH>(gate, in + 2 * n * F, f, F);
        load_run<VECTORS, WIDTH>(up, in + (2 * n + 1) * F, f, F);
#pragma unroll
        for (int i = 0; i < WIDTH; i++) up[i] *= gate[i] * sigmoid(gate[i]);
        store_run<VECTORS, WIDTH>(out + n * F, up, f, F);
    }
}

// silu'(g) = σ(g) (1 + g (1 - σ(g))). din may be `in`: a thread writes only where it has read
// itself.
template <typename T, bool VECTORS>
__global__ void __launch_bounds__(THREADS)
    swiglu_backward_kernel(T *din, const T *__restrict__ dout, const T *in, int64_t N, int F) {
    constexpr int WIDTH = Vector<T>::COUNT;
    for (int r = 0; r < RUNS; r++) {
        int64_t n;
        int f;
        if (!find_run<WIDTH>(r, N, F, &n, &f)) return;
        float gate[WIDTH], up[WIDTH], dy[WIDTH];
        load_run<VECTORS, WIDTH>(gate, in + 2 * n * F, f, F);
        load_run<VECTORS, WIDTH>(up, in + (2 * n + 1) * F, f, F);
        load_run<VECTORS, WIDTH>(dy, dout + n * F, f, F);
#pragma unroll
        for (int i = 0; i < WIDTH; i++) {
            float g = gate[i], s = sigmoid(g);
            gate[i] = dy[i] * up[i] * s * (1.0f + g * (1.0f - s));
            up[i] = dy[i] * g * s;
        }
        store_run<VECTORS, WIDTH>(din + 2 * n * F, gate, f, F);
        store_run<VECTORS, WIDTH>(din + (2 * n + 1) * F, up, f, F);
    }
}

template <typename T, bool VECTORS>
__global__ void __launch_bounds__(THREADS)
    relu_forward_kernel(T *out, const T *__restrict__ in, int64_t N, int F) {
    constexpr int WIDTH = Vector<T>::COUNT;
    for (int r = 0; r < RUNS; r++) {
        int64_t n;
        int f;
        if (!find_run<WIDTH>(r, N, F, &n, &f)) return;
        float x[WIDTH];
        load_run<VECTORS, WIDTH>(x, in + n * F, f, F);
#pragma unroll
        for (int i = 0; i < WIDTH; i++) x[i] = x[i] < 0.0f ? 0.0f : x[i]; // NaN stays NaN
        store_run<VECTORS, WIDTH>(out + n * F, x, f, F);
    }
}

template <typename T, bool VECTORS>
__global__ void __launch_bounds__(THREADS)
    relu_backward_kernel(T *din, const T *__restrict__ dout, const T *in, int64_t N, int F) {
    constexpr int WIDTH = Vector<T>::COUNT;
    for (int r = 0; r < RUNS; r++) {
        int64_t n;
        int f;
        if (!find_run<WIDTH>(r, N, F, &n, &f)) return;
        float x[WIDTH], dy[WIDTH];
        load_run<VECTORS, WIDTH>(x, in + n * F, f, F);
        load_run<VECTORS, WIDTH>(dy, dout + n * F, f, F);
#pragma unroll
        for (int i = 0; i < WIDTH; i++) x[i] = x[i] > 0.0f ? dy[i] : 0.0f;
        store_run<VECTORS, WIDTH>(din + n * F, x, f, F);
    }
}

// Halves of a SwiGLU row are rows of F too, hence aligned when F is.
template <typename T> static bool are_vectors(Tensor wide, Tensor narrow) {
    return rows_are_vectors<T>(wide.data, narrow.shape[1]) &&
           rows_are_vectors<T>(narrow.data, narrow.shape[1]);
}
template <typename T> static dim3 grid_over(Tensor narrow) {
    return grid_of(
        ceil_div(narrow.shape[0] * ceil_div(narrow.shape[1], Vector<T>::COUNT), BLOCK_RUNS));
}

template <typename T> static void forward(Device *dev, Tensor out, Tensor in, Activation kind) {
    bool vectors = are_vectors<T>(in, out);
    auto swiglu = vectors ? swiglu_forward_kernel<T, true> : swiglu_forward_kernel<T, false>;
    auto relu = vectors ? relu_forward_kernel<T, true> : relu_forward_kernel<T, false>;
    launch(dev, kind == SWIGLU ? swiglu : relu, grid_over<T>(out), dim3(THREADS), 0,
           device_data<T>(out), device_data<T>(in), out.shape[0], out.shape[1]);
}

template <typename T>
static void backward(Device *dev, Tensor din, Tensor dout, Tensor in, Activation kind) {
    bool vectors = are_vectors<T>(in, dout) && are_vectors<T>(din, dout);
    auto swiglu = vectors ? swiglu_backward_kernel<T, true> : swiglu_backward_kernel<T, false>;
    auto relu = vectors ? relu_backward_kernel<T, true> : relu_backward_kernel<T, false>;
    launch(dev, kind == SWIGLU ? swiglu : relu, grid_over<T>(dout), dim3(THREADS), 0,
           device_data<T>(din), device_data<T>(dout), device_data<T>(in), dout.shape[0],
           dout.shape[1]);
}

void activation_forward_cuda(Device *dev, Tensor out, Tensor in, Activation kind) {
    if (in.dtype == BF16) {
        forward<bf16>(dev, out, in, kind);
    } else {
        forward<float>(dev, out, in, kind);
    }
}

void activation_backward_cuda(Device *dev, Tensor din, Tensor dout, Tensor in, Activation kind) {
    if (in.dtype == BF16) {
        backward<bf16>(dev, din, dout, in, kind);
    } else {
        backward<float>(dev, din, dout, in, kind);
    }
}
