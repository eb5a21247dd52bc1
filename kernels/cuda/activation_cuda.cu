#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/normal.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/storage.cuh"

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

// ---- the activations ----------------------------------------------------------------------------

// Each is a struct, named by its word: how many inputs an element has, its value, and its gradient,
// which takes the inputs' place.

struct relu {
    static const int INPUTS = 1;
    __device__ static float value(const float *x) {
        return x[0] < 0.0f ? 0.0f : x[0]; // NaN stays NaN
    }
    __device__ static void gradient(float *x, float dout) { x[0] = x[0] > 0.0f ? dout : 0.0f; }
};

struct swiglu { // of gate and up
    static const int INPUTS = 2;
    __device__ static float value(const float *x) { return x[1] * (x[0] * sigmoid(x[0])); }
    // silu'(g) = σ(g) (1 + g (1 - σ(g)))
    __device__ static void gradient(float *x, float dout) {
        float gate = x[0], up = x[1], s = sigmoid(gate);
        x[0] = dout * up * s * (1.0f + gate * (1.0f - s));
        x[1] = dout * gate * s;
    }
};

__device__ static inline float gelu_slope(float x) {
    return normal_share(x) + x * normal_density(x);
}

struct gelu {
    static const int INPUTS = 1;
    __device__ static float value(const float *x) { return x[0] * normal_share(x[0]); }
    __device__ static void gradient(float *x, float dout) { x[0] = dout * gelu_slope(x[0]); }
};

struct gelu_tanh { // (1 + tanh(u)) / 2 = σ(2u), 2u = 2 √(2/π) (x + 0.044715 x³)
    static const int INPUTS = 1;
    __device__ static float share(float x) {
        return sigmoid(x * (1.59576912f + 0.0713548163f * x * x));
    }
    __device__ static float value(const float *x) { return x[0] * share(x[0]); }
    __device__ static void gradient(float *x, float dout) {
        float z = x[0], s = share(z);
        x[0] = dout * (s + z * s * (1.0f - s) * (1.59576912f + 3.0f * 0.0713548163f * z * z));
    }
};

struct geglu { // of gate and up
    static const int INPUTS = 2;
    __device__ static float value(const float *x) { return x[0] * normal_share(x[0]) * x[1]; }
    __device__ static void gradient(float *x, float dout) {
        float gate = x[0], up = x[1];
        x[0] = dout * up * gelu_slope(gate);
        x[1] = dout * (gate * normal_share(gate));
    }
};

struct relu2 {
    static const int INPUTS = 1;
    __device__ static float value(const float *x) {
        float y = relu::value(x);
        return y * y;
    }
    __device__ static void gradient(float *x, float dout) { x[0] = dout * (2.0f * relu::value(x)); }
};

// NaN stays NaN.
__device__ static inline float at_most(float x, float limit) {
    return x > limit ? limit : x;
}
__device__ static inline float within(float x, float limit) {
    return x < -limit ? -limit : at_most(x, limit);
}

struct swiglu_oai { // of gate and up
    static const int INPUTS = 2;
    __device__ static float value(const float *x) {
        float g = at_most(x[0], 7.0f);
        return g * sigmoid(1.702f * g) * (within(x[1], 7.0f) + 1.0f);
    }
    __device__ static void gradient(float *x, float dout) {
        float gate = x[0], g = at_most(gate, 7.0f), s = sigmoid(1.702f * g);
        float up = x[1], u = within(up, 7.0f);
        x[0] = gate > 7.0f ? 0.0f : dout * (u + 1.0f) * s * (1.0f + 1.702f * g * (1.0f - s));
        x[1] = u == up ? dout * g * s : 0.0f;
    }
};

struct swiglu_limit { // of gate and up
    static const int INPUTS = 2;
    __device__ static float value(const float *x) {
        float clamped[2] = {at_most(x[0], 10.0f), within(x[1], 10.0f)};
        return swiglu::value(clamped);
    }
    __device__ static void gradient(float *x, float dout) {
        float gate = x[0], up = x[1];
        x[0] = at_most(gate, 10.0f), x[1] = within(up, 10.0f);
        swiglu::gradient(x, dout);
        if (gate > 10.0f) x[0] = 0.0f;
        if (within(up, 10.0f) != up) x[1] = 0.0f;
    }
};

// ---- kernels ------------------------------------------------------------------------------------

// A row of F is cut into runs of WIDTH elements, 16 bytes of T; a block has BLOCK_RUNS of all rows'
// runs, one after another in memory, and each of its threads RUNS of them, a block's width apart.
// Every element is read and written once, 16 bytes at a time where rows are aligned. Elements are
// independent: nothing is summed.
template <typename Function, typename T, bool VECTORS>
__global__ void __launch_bounds__(THREADS)
    activation_forward_kernel(T *out, const T *__restrict__ in, int64_t N, int F) {
    constexpr int WIDTH = Vector<T>::COUNT, INPUTS = Function::INPUTS;
    for (int r = 0; r < RUNS; r++) {
        int64_t n;
        int f;
        if (!find_run<WIDTH>(r, N, F, &n, &f)) return;
        float in_run[INPUTS][WIDTH], y[WIDTH];
#pragma unroll
        for (int part = 0; part < INPUTS; part++)
            load_run<VECTORS, WIDTH>(in_run[part], in + (INPUTS * n + part) * F, f, F);
#pragma unroll
        for (int i = 0; i < WIDTH; i++) {
            float x[INPUTS];
#pragma unroll
            for (int part = 0; part < INPUTS; part++) x[part] = in_run[part][i];
            y[i] = Function::value(x);
        }
        store_run<VECTORS, WIDTH>(out + n * F, y, f, F);
    }
}

// din may be `in`: a thread writes only where it has read itself.
template <typename Function, typename T, bool VECTORS>
__global__ void __launch_bounds__(THREADS)
    activation_backward_kernel(T *din, const T *__restrict__ dout, const T *in, int64_t N, int F) {
    constexpr int WIDTH = Vector<T>::COUNT, INPUTS = Function::INPUTS;
    for (int r = 0; r < RUNS; r++) {
        int64_t n;
        int f;
        if (!find_run<WIDTH>(r, N, F, &n, &f)) return;
        float run[INPUTS][WIDTH], dy[WIDTH];
#pragma unroll
        for (int part = 0; part < INPUTS; part++)
            load_run<VECTORS, WIDTH>(run[part], in + (INPUTS * n + part) * F, f, F);
        load_run<VECTORS, WIDTH>(dy, dout + n * F, f, F);
#pragma unroll
        for (int i = 0; i < WIDTH; i++) {
            float x[INPUTS];
#pragma unroll
            for (int part = 0; part < INPUTS; part++) x[part] = run[part][i];
            Function::gradient(x, dy[i]);
#pragma unroll
            for (int part = 0; part < INPUTS; part++) run[part][i] = x[part];
        }
#pragma unroll
        for (int part = 0; part < INPUTS; part++)
            store_run<VECTORS, WIDTH>(din + (INPUTS * n + part) * F, run[part], f, F);
    }
}

// ---- launches -----------------------------------------------------------------------------------

// Halves of a gated row are rows of F too, hence aligned when F is.
template <typename T> static bool are_vectors(Tensor wide, Tensor narrow) {
    return rows_are_vectors<T>(wide.data, narrow.shape[1]) &&
           rows_are_vectors<T>(narrow.data, narrow.shape[1]);
}
template <typename T> static dim3 grid_over(Tensor narrow) {
    return grid_of(
        ceil_div(narrow.shape[0] * ceil_div(narrow.shape[1], Vector<T>::COUNT), BLOCK_RUNS));
}

template <typename Function, typename T> static void forward(Device *dev, Tensor out, Tensor in) {
    launch(dev,
           are_vectors<T>(in, out) ? activation_forward_kernel<Function, T, true>
                                   : activation_forward_kernel<Function, T, false>,
           grid_over<T>(out), dim3(THREADS), 0, device_data<T>(out), device_data<T>(in),
           out.shape[0], out.shape[1]);
}

template <typename Function, typename T>
static void backward(Device *dev, Tensor din, Tensor dout, Tensor in) {
    bool vectors = are_vectors<T>(in, dout) && are_vectors<T>(din, dout);
    launch(dev,
           vectors ? activation_backward_kernel<Function, T, true>
                   : activation_backward_kernel<Function, T, false>,
           grid_over<T>(dout), dim3(THREADS), 0, device_data<T>(din), device_data<T>(dout),
           device_data<T>(in), dout.shape[0], dout.shape[1]);
}

void activation_forward_cuda(Device *dev, Tensor out, Tensor in, Activation kind) {
    bool wide = in.dtype == F32;
    switch (kind) {
#define ROW(value, word, inputs, meaning)                                                          \
    case value:                                                                                    \
        (wide ? forward<word, float> : forward<word, bf16>)(dev, out, in);                         \
        break;
        ACTIVATIONS(ROW)
#undef ROW
    }
}

void activation_backward_cuda(Device *dev, Tensor din, Tensor dout, Tensor in, Activation kind) {
    bool wide = in.dtype == F32;
    switch (kind) {
#define ROW(value, word, inputs, meaning)                                                          \
    case value:                                                                                    \
        (wide ? backward<word, float> : backward<word, bf16>)(dev, din, dout, in);                 \
        break;
        ACTIVATIONS(ROW)
#undef ROW
    }
}
