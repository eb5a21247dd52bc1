#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/storage.cuh"

enum { ROPE_THREADS = 256 };

// COUNT numbers of a row: whole vectors, or one.
template <int COUNT> __device__ static inline void load_angles(float *to, const float *from) {
    if constexpr (COUNT == 1) {
        to[0] = from[0];
    } else {
#pragma unroll
        for (int i = 0; i < COUNT; i += 4) load_vector(to + i, from + i);
    }
}
template <int COUNT, typename T>
__device__ static inline void load_pairs(float *to, const T *from) {
    if constexpr (COUNT == 1) {
        to[0] = to_float(from[0]);
    } else {
        load_vector(to, from);
    }
}
template <int COUNT, typename T>
__device__ static inline void store_pairs(T *to, const float *from) {
    if constexpr (COUNT == 1) {
        to[0] = from_float<T>(from[0]);
    } else {
        store_vector(to, from);
    }
}

// A block owns blockDim.y rows, blockDim.x threads to a row; a thread turns COUNT pairs of a head
// at a time. `heads` counts the query and the key heads, which follow them in the row. Bytes moved:
// queries and keys once in and once out; the angles of a position come from the cache after the
// first head. Each pair is a function of itself and its angle.
template <typename T, int COUNT>
__global__ void __launch_bounds__(ROPE_THREADS)
    rope_rotate(T *qkv, const float *cosines, const float *sines, int64_t rows, int64_t width,
                int heads, int d_head, int half, int64_t tokens, int64_t first_position,
                const int32_t *of_rows, float sign) {
    int64_t row = (int64_t)blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= rows) return;
    int64_t angle = (of_rows ? of_rows[row] : first_position + row % tokens) * half;
    int across = half / COUNT;
    for (int item = threadIdx.x; item < heads * across; item += blockDim.x) {
        int i = item % across * COUNT;
        T *a = qkv + row * width + item / across * d_head + i, *b = a + half;
        float x[COUNT], y[COUNT], cosine[COUNT], sine[COUNT], u[COUNT], v[COUNT];
        load_pairs<COUNT>(x, a);
        load_pairs<COUNT>(y, b);
        load_angles<COUNT>(cosine, cosines + angle + i);
        load_angles<COUNT>(sine, sines + angle + i);
#pragma unroll
        for (int j = 0; j < COUNT; j++) {
            float s = sign * sine[j];
            u[j] = x[j] * cosine[j] - y[j] * s;
            v[j] = y[j] * cosine[j] + x[j] * s;
        }
        store_pairs<COUNT>(a, u);
        store_pairs<COUNT>(b, v);
    }
}

template <typename T>
static void rotate(Device *dev, Tensor qkv, AttentionShape s, Tensor cosines, Tensor sines,
                   RowPositions at, bool inverse) {
    const int COUNT = Vector<T>::COUNT;
    int64_t N = qkv.shape[0], W = qkv.shape[1], half = cosines.shape[1],
            heads = s.heads + s.kv_heads;
    bool vectors = half % COUNT == 0 && s.d_head % COUNT == 0 && rows_are_vectors<T>(qkv.data, W) &&
                   rows_are_vectors<float>(cosines.data, half) &&
                   rows_are_vectors<float>(sines.data, half);
    int64_t items = heads * half / (vectors ? COUNT : 1);
    CHECK(heads * half <= 1 << 30, "%lld heads of %lld channels", (long long)heads,
          (long long)s.d_head);
    unsigned across = 1;
    while (across < items && across < ROPE_THREADS) across *= 2;
    unsigned down = ROPE_THREADS / across;
    launch(dev, vectors ? rope_rotate<T, COUNT> : rope_rotate<T, 1>, grid_of(ceil_div(N, down)),
           dim3(across, down), 0, device_data<T>(qkv), device_data<float>(cosines),
           device_data<float>(sines), N, W, heads, s.d_head, half, at.T, at.first,
           at.of_rows.data ? device_data<int32_t>(at.of_rows) : NULL, inverse ? -1.0f : 1.0f);
}

void rope_cuda(Device *dev, Tensor qkv, AttentionShape s, Tensor cosines, Tensor sines,
               RowPositions at, bool inverse) {
    (qkv.dtype == F32 ? rotate<float> : rotate<bf16>)(dev, qkv, s, cosines, sines, at, inverse);
}
