// delta = Σ dout · out of a row and head, which both gradients of attention's softmax need: that of
// the scores and that of the sinks.
#ifndef MOETRAIN_KERNELS_CUDA_ATTENTION_DELTA_CUH
#define MOETRAIN_KERNELS_CUDA_ATTENTION_DELTA_CUH

#include "kernels/cuda/attention_tile.cuh"

enum { DELTA_LANES = 8, DELTA_THREADS = 256 };

// The gradient of sinks, row by row: dsinks = -exp(sink - lse) · delta. dsinks NULL: none.
typedef struct SinkRows {
    float *dsinks;
    const float *lse, *sinks;
    int heads; // of a row
} SinkRows;

// delta (N, H) = Σ dout · out. 8 lanes a head, so that a warp reads 4 heads one after the other in
// memory.
template <typename T>
__global__ void __launch_bounds__(DELTA_THREADS)
    attention_delta(float *delta, SinkRows sinks, const T *dout, const T *out, int64_t heads,
                    int d_value, bool vectors) {
    const int COUNT = Vector<T>::COUNT;
    int64_t head = ((int64_t)blockIdx.x * DELTA_THREADS + threadIdx.x) / DELTA_LANES;
    int lane = threadIdx.x % DELTA_LANES;
    const T *a = dout + head * d_value, *b = out + head * d_value;
    float sum = 0.0f;
    if (head < heads && vectors) {
        for (int c = lane * COUNT; c < d_value; c += DELTA_LANES * COUNT) {
            float x[COUNT], y[COUNT];
            load_vector(x, a + c);
            load_vector(y, b + c);
#pragma unroll
            for (int i = 0; i < COUNT; i++) sum += x[i] * y[i];
        }
    } else if (head < heads) {
        for (int c = lane; c < d_value; c += DELTA_LANES) sum += to_float(a[c]) * to_float(b[c]);
    }
#pragma unroll
    for (int distance = DELTA_LANES / 2; distance > 0; distance /= 2)
        sum += __shfl_xor_sync(ALL_LANES, sum, distance);
    if (head >= heads || lane != 0) return;
    delta[head] = sum;
    if (sinks.dsinks)
        sinks.dsinks[head] =
            -exp2f((sinks.sinks[head % sinks.heads] - sinks.lse[head]) * LOG2_E) * sum;
}

// Into `delta`, f32 of the device.
template <typename T>
static void launch_delta(Device *dev, float *delta, SinkRows sinks, Tensor dout, Tensor out,
                         int64_t d_value) {
    int64_t heads = dout.shape[0] * (dout.shape[1] / d_value);
    bool vectors =
        rows_are_vectors<T>(dout.data, d_value) && rows_are_vectors<T>(out.data, d_value);
    launch(dev, attention_delta<T>, grid_of(ceil_div(heads * DELTA_LANES, DELTA_THREADS)),
           dim3(DELTA_THREADS), 0, delta, sinks, device_data<T>(dout), device_data<T>(out), heads,
           d_value, vectors);
}

#endif
