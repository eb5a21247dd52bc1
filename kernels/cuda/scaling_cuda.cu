#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/storage.cuh"

static const int THREADS = 256;

// What becomes of an element, and of its gradient where the value is needed too.

struct multiplied {
    float factor;
    __device__ float operator()(float x, float) const { return factor * x; }
};

struct product {
    __device__ float operator()(float x, float y) const { return x * y; }
};

struct capped {
    float cap;
    __device__ float operator()(float x, float) const { return cap * tanhf(x / cap); }
};

struct capped_gradient {
    float cap;
    __device__ float operator()(float dout, float out) const {
        float t = out / cap;
        return dout * (1.0f - t * t);
    }
};

// out = function(a, b), b read where it is given. A thread owns four neighbours; unaligned tensors
// and the last tile go element by element. Every element is read and written once. Elements are
// independent: nothing is summed, and out may be a.
template <typename Function, typename To, typename From>
__global__ void __launch_bounds__(THREADS)
    elementwise_kernel(To *out, const From *a, const From *b, int64_t n, bool vectors,
                       Function function) {
    int64_t first = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * 4;
    if (first >= n) return;
    if (vectors && first + 4 <= n) {
        float x[4], y[4] = {0, 0, 0, 0};
        load_four(x, a + first);
        if (b) load_four(y, b + first);
#pragma unroll
        for (int i = 0; i < 4; i++) x[i] = function(x[i], y[i]);
        store_four(out + first, x);
    } else {
        for (int64_t i = first; i < n && i < first + 4; i++)
            out[i] = from_float<To>(function(to_float(a[i]), b ? to_float(b[i]) : 0.0f));
    }
}

template <typename T> static bool is_aligned(const T *data) {
    return (uintptr_t)data % (4 * sizeof(T)) == 0;
}

template <typename To, typename From, typename Function>
static void launch_elementwise(Device *dev, Tensor out, Tensor a, Tensor b, Function function) {
    To *to = device_data<To>(out);
    const From *x = device_data<From>(a), *y = b.data ? device_data<From>(b) : NULL;
    int64_t n = tensor_elements(out);
    launch(dev, elementwise_kernel<Function, To, From>, grid_of(ceil_div(n, 4 * THREADS)),
           dim3(THREADS), 0, to, x, y, n, is_aligned(to) && is_aligned(x) && is_aligned(y),
           function);
}

void multiply_pairs_cuda(Device *dev, Tensor out, Tensor a, Tensor b) {
    launch_elementwise<float, float>(dev, out, a, b, product());
}

void multiply_by_cuda(Device *dev, Tensor out, Tensor x, float factor) {
    multiplied function = {factor};
    Tensor none = {};
    if (out.dtype == F32 && x.dtype == F32)
        launch_elementwise<float, float>(dev, out, x, none, function);
    else if (out.dtype == F32)
        launch_elementwise<float, bf16>(dev, out, x, none, function);
    else if (x.dtype == F32)
        launch_elementwise<bf16, float>(dev, out, x, none, function);
    else
        launch_elementwise<bf16, bf16>(dev, out, x, none, function);
}

void softcap_forward_cuda(Device *dev, Tensor out, Tensor x, float cap) {
    capped function = {cap};
    Tensor none = {};
    if (x.dtype == F32)
        launch_elementwise<float, float>(dev, out, x, none, function);
    else
        launch_elementwise<bf16, bf16>(dev, out, x, none, function);
}

void softcap_backward_cuda(Device *dev, Tensor dx, Tensor dout, Tensor out, float cap) {
    capped_gradient function = {cap};
    if (out.dtype == F32)
        launch_elementwise<float, float>(dev, dx, dout, out, function);
    else
        launch_elementwise<bf16, bf16>(dev, dx, dout, out, function);
}
