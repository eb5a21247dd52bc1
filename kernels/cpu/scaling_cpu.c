#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/stored_rows.h"
#include "kernels/cpu/vector_math.h"

enum { TILE = 1024 }; // elements that are widened at a time

static int64_t tile_length(int64_t n, int64_t first) {
    return n - first < TILE ? n - first : TILE;
}

void multiply_pairs_cpu(Device *dev, Tensor out, Tensor a, Tensor b) {
    int64_t n = tensor_elements(out);
    const float *x = tensor_f32(a), *y = tensor_f32(b);
    float *to = tensor_f32(out);
#pragma omp parallel for simd schedule(static)
    for (int64_t i = 0; i < n; i++) to[i] = x[i] * y[i];
}

void multiply_by_cpu(Device *dev, Tensor out, Tensor x, float factor) {
    int64_t n = tensor_elements(x);
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < n; first += TILE) {
        float room[TILE], room_x[TILE];
        int64_t count = tile_length(n, first);
        const float *from = elements_as_f32(x, first, count, room_x);
        float *to = result_elements(out, first, room);
#pragma omp simd
        for (int64_t i = 0; i < count; i++) to[i] = factor * from[i];
        finish_elements(out, first, count, room);
    }
}

void softcap_forward_cpu(Device *dev, Tensor out, Tensor x, float cap) {
    int64_t n = tensor_elements(x);
    float inverse = 1.0f / cap;
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < n; first += TILE) {
        float room[TILE], room_x[TILE];
        int64_t count = tile_length(n, first);
        const float *from = elements_as_f32(x, first, count, room_x);
        float *to = result_elements(out, first, room);
#pragma omp simd
        for (int64_t i = 0; i < count; i++) to[i] = cap * tanh_f32(from[i] * inverse);
        finish_elements(out, first, count, room);
    }
}

void softcap_backward_cpu(Device *dev, Tensor dx, Tensor dout, Tensor out, float cap) {
    int64_t n = tensor_elements(dx);
    float inverse = 1.0f / cap;
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < n; first += TILE) {
        float room[TILE], room_dout[TILE], room_out[TILE];
        int64_t count = tile_length(n, first);
        const float *dy = elements_as_f32(dout, first, count, room_dout);
        const float *y = elements_as_f32(out, first, count, room_out);
        float *to = result_elements(dx, first, room);
#pragma omp simd
        for (int64_t i = 0; i < count; i++) {
            float t = y[i] * inverse;
            to[i] = dy[i] * (1.0f - t * t);
        }
        finish_elements(dx, first, count, room);
    }
}
