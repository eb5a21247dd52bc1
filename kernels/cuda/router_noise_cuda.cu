// Random numbers of the router on the GPU: noise and jitter.
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/philox.cuh"
#include "kernels/cuda/storage.cuh"

static const int THREADS = 256;

// Box and Muller's number `number` of the stream, as router_noise_cpu.c has it.
__device__ static inline float normal_at(RngStream stream, uint64_t number) {
    uint4 words = philox_words(stream, number / 4);
    bool second = number & 2;
    float u = 1.0f - (float)((second ? words.z : words.x) >> 8) * 0x1p-24f;
    float v = (float)((second ? words.w : words.y) >> 8) * 0x1p-24f;
    float turn = 6.283185307f * (v - rintf(v)); // |turn| <= π
    return sqrtf(-2.0f * logf(u)) * (number & 1 ? sinf(turn) : cosf(turn));
}

// A thread owns an element; 12 bytes each; out may be logits. Elements are independent.
__global__ static void __launch_bounds__(THREADS)
    add_noise(float *out, const float *logits, const float *scale, RngStream stream, uint64_t first,
              int64_t count) {
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= count) return;
    float s = scale[i], softplus = fmaxf(s, 0.0f) + log1pf(expf(-fabsf(s)));
    out[i] = logits[i] + normal_at(stream, first + (uint64_t)i) * softplus;
}

// The same.
__global__ static void __launch_bounds__(THREADS)
    noise_gradient(float *dscale, const float *dlogits, const float *scale, RngStream stream,
                   uint64_t first, int64_t count) {
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= count) return;
    float sigmoid = 1.0f / (1.0f + expf(-scale[i]));
    dscale[i] = dlogits[i] * normal_at(stream, first + (uint64_t)i) * sigmoid;
}

// The same, 8 bytes each; out may be x.
__global__ static void __launch_bounds__(THREADS)
    jitter(float *out, const float *x, float amount, RngStream stream, uint64_t first,
           int64_t count) {
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= count) return;
    uint64_t number = first + (uint64_t)i;
    uint4 words = philox_words(stream, number / 4);
    int at = (int)(number % 4);
    uint32_t word = at == 0 ? words.x : at == 1 ? words.y : at == 2 ? words.z : words.w;
    float uniform = (float)(word >> 8) * 0x1p-23f - 1.0f;
    out[i] = x[i] * (1.0f + amount * uniform);
}

extern "C" void router_noise_forward_cuda(Device *dev, Tensor out, Tensor logits, Tensor scale,
                                          RouterNoise noise) {
    int64_t count = tensor_elements(logits);
    launch(dev, add_noise, grid_of(ceil_div(count, THREADS)), dim3(THREADS), 0,
           device_data<float>(out), device_data<float>(logits), device_data<float>(scale),
           noise.stream, (uint64_t)(noise.first_token * logits.shape[1]), count);
}

extern "C" void router_noise_backward_cuda(Device *dev, Tensor dscale, Tensor dlogits, Tensor scale,
                                           RouterNoise noise) {
    int64_t count = tensor_elements(dlogits);
    launch(dev, noise_gradient, grid_of(ceil_div(count, THREADS)), dim3(THREADS), 0,
           device_data<float>(dscale), device_data<float>(dlogits), device_data<float>(scale),
           noise.stream, (uint64_t)(noise.first_token * dlogits.shape[1]), count);
}

extern "C" void router_jitter_cuda(Device *dev, Tensor out, Tensor x, float amount,
                                   RouterNoise noise) {
    int64_t count = tensor_elements(x);
    launch(dev, jitter, grid_of(ceil_div(count, THREADS)), dim3(THREADS), 0,
           device_data<float>(out), device_data<float>(x), amount, noise.stream,
           (uint64_t)(noise.first_token * x.shape[1]), count);
}
