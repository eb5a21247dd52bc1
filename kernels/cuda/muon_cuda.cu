// What Muon does between its matrix products: bound by memory, every byte moves once.
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/update.cuh"

// A thread owns four consecutive elements.
__global__ void __launch_bounds__(THREADS)
    momentum_kernel(float *u, const float *g, float *m, int64_t n, Momentum rule) {
    int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * PER_THREAD;
    if (i >= n) return;
    float direction[PER_THREAD], gradient[PER_THREAD], momentum[PER_THREAD];
    load_four(gradient, g + i);
    load_four(momentum, m + i);
#pragma unroll
    for (int j = 0; j < PER_THREAD; j++) {
        float gj = gradient[j] * rule.grad_scale;
        momentum[j] = rule.momentum * momentum[j] + gj;
        direction[j] = rule.nesterov ? gj + rule.momentum * momentum[j] : momentum[j];
    }
    store_four(m + i, momentum);
    store_four(u + i, direction);
}

void momentum_direction_cuda(Device *dev, Tensor u, Tensor g, Tensor m, Momentum rule) {
    int64_t n = u.shape[0];
    launch(dev, momentum_kernel, grid_of(ceil_div(n, THREADS * PER_THREAD)), THREADS, 0,
           aligned_data<float>(u, "u"), aligned_data<float>(g, "g"), aligned_data<float>(m, "m"), n,
           rule);
}

// A row of blocks, SPLIT of them, owns a segment and strides over it: segments begin anywhere, so
// element by element.
enum { SPLIT = 32 };

__global__ void __launch_bounds__(THREADS)
    normalize_kernel(float *x, const double *squares, const int64_t *offsets, float eps) {
    int64_t s = blockIdx.x / (int)SPLIT, block = blockIdx.x % (int)SPLIT;
    float factor = (float)(1.0 / (sqrt(squares[s]) + (double)eps));
    for (int64_t i = offsets[s] + block * THREADS + threadIdx.x; i < offsets[s + 1];
         i += (int64_t)SPLIT * THREADS)
        x[i] *= factor;
}

void normalize_segments_cuda(Device *dev, Tensor x, Tensor squares, Tensor offsets, float eps) {
    launch(dev, normalize_kernel, grid_of(squares.shape[0] * SPLIT), THREADS, 0,
           device_data<float>(x), device_data<double>(squares), device_data<int64_t>(offsets), eps);
}

// A thread owns an element.
__global__ void __launch_bounds__(THREADS)
    polynomial_kernel(float *square, const float *a, int64_t n, int64_t elements,
                      MatrixPolynomial p) {
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= elements) return;
    float sum = p.linear * a[i] + p.quadratic * square[i];
    square[i] = i / n % n == i % n ? sum + p.identity : sum;
}

void matrix_polynomial_cuda(Device *dev, Tensor square, Tensor a, MatrixPolynomial p) {
    int64_t elements = tensor_elements(a);
    launch(dev, polynomial_kernel, grid_of(ceil_div(elements, THREADS)), THREADS, 0,
           device_data<float>(square), device_data<float>(a), a.shape[1], elements, p);
}

// A thread owns four consecutive elements.
__global__ void __launch_bounds__(THREADS)
    decayed_step_kernel(float *w, bf16 *copy, const float *step, const uint8_t *groups, int64_t n,
                        DecayedStep rule) {
    int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * PER_THREAD;
    if (i >= n) return;
    float weight[PER_THREAD], by[PER_THREAD];
    load_four(weight, w + i);
    load_four(by, step + i);
    int group = groups[i / UNIT];
    float lr = rule.lr[group], weight_decay = rule.weight_decay[group];
#pragma unroll
    for (int j = 0; j < PER_THREAD; j++) weight[j] -= lr * (by[j] + weight_decay * weight[j]);
    store_four(w + i, weight);
    if (copy) store_four(copy + i, weight);
}

void decayed_step_cuda(Device *dev, Tensor w, Tensor copy, Tensor step, Tensor groups,
                       DecayedStep rule) {
    int64_t n = w.shape[0];
    bf16 *rounded = copy.data ? aligned_data<bf16>(copy, "copy") : nullptr;
    launch(dev, decayed_step_kernel, grid_of(ceil_div(n, THREADS * PER_THREAD)), THREADS, 0,
           aligned_data<float>(w, "w"), rounded, aligned_data<float>(step, "step"),
           device_data<uint8_t>(groups), n, rule);
}
