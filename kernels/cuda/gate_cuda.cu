// x · σ(gate), a gate for some columns of a row one after the other. A warp owns a gate of a row:
// its lanes take its columns in turn. Bytes moved: x and out once, forward; x, dout and dx once,
// backward.
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/storage.cuh"

enum { GATE_THREADS = 256 };

__device__ static inline float sigmoid_of(float x) {
    return 1.0f / (1.0f + expf(-x));
}

// LANES threads own a gate: one where it has a single column, a warp otherwise.
template <typename T, int LANES>
__global__ void __launch_bounds__(GATE_THREADS)
    gate_forward_kernel(T *out, const T *x, const T *gate, int64_t gates, int width) {
    int64_t at = ((int64_t)blockIdx.x * GATE_THREADS + threadIdx.x) / LANES;
    if (at >= gates) return;
    float open = sigmoid_of(to_float(gate[at]));
    for (int64_t c = at * width + threadIdx.x % LANES; c < (at + 1) * width; c += LANES)
        out[c] = from_float<T>(to_float(x[c]) * open);
}

template <typename T, int LANES>
__global__ void __launch_bounds__(GATE_THREADS)
    gate_backward_kernel(T *dx, T *dgate, const T *dout, const T *x, const T *gate, int64_t gates,
                         int width) {
    int64_t at = ((int64_t)blockIdx.x * GATE_THREADS + threadIdx.x) / LANES;
    if (at >= gates) return; // a whole warp, or a thread that needs no other
    float open = sigmoid_of(to_float(gate[at])), sum = 0.0f;
    for (int64_t c = at * width + threadIdx.x % LANES; c < (at + 1) * width; c += LANES) {
        float g = to_float(dout[c]);
        sum += g * to_float(x[c]);
        dx[c] = from_float<T>(g * open);
    }
    if (LANES > 1) sum = warp_sum(sum);
    if (threadIdx.x % LANES == 0) dgate[at] = from_float<T>(open * (1.0f - open) * sum);
}

template <typename T, int LANES>
static void forward(Device *dev, Tensor out, Tensor x, Tensor gate) {
    int64_t gates = tensor_elements(gate);
    launch(dev, gate_forward_kernel<T, LANES>, grid_of(ceil_div(gates * LANES, GATE_THREADS)),
           dim3(GATE_THREADS), 0, device_data<T>(out), device_data<T>(x), device_data<T>(gate),
           gates, x.shape[1] / gate.shape[1]);
}

template <typename T, int LANES>
static void backward(Device *dev, Tensor dx, Tensor dgate, Tensor dout, Tensor x, Tensor gate) {
    int64_t gates = tensor_elements(gate);
    launch(dev, gate_backward_kernel<T, LANES>, grid_of(ceil_div(gates * LANES, GATE_THREADS)),
           dim3(GATE_THREADS), 0, device_data<T>(dx), device_data<T>(dgate), device_data<T>(dout),
           device_data<T>(x), device_data<T>(gate), gates, x.shape[1] / gate.shape[1]);
}

void gate_forward_cuda(Device *dev, Tensor out, Tensor x, Tensor gate) {
    if (x.shape[1] == gate.shape[1])
        (x.dtype == F32 ? forward<float, 1> : forward<bf16, 1>)(dev, out, x, gate);
    else
        (x.dtype == F32 ? forward<float, WARP> : forward<bf16, WARP>)(dev, out, x, gate);
}

void gate_backward_cuda(Device *dev, Tensor dx, Tensor dgate, Tensor dout, Tensor x, Tensor gate) {
    if (x.shape[1] == gate.shape[1])
        (x.dtype == F32 ? backward<float, 1> : backward<bf16, 1>)(dev, dx, dgate, dout, x, gate);
    else
        (x.dtype == F32 ? backward<float, WARP> : backward<bf16, WARP>)(dev, dx, dgate, dout, x,
                                                                        gate);
}
