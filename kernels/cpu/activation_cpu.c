#include "kernels/cpu/bf16.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/vector_math.h"

static void relu_row(float *out, const float *in, int64_t F) {
    for (int64_t f = 0; f < F; f++) out[f] = in[f] < 0.0f ? 0.0f : in[f]; // NaN stays NaN
}

// The backward loops may work in place, element by element: `omp simd` says so, else the compiler's
// own aliasing test would choose its scalar loop exactly then.
static void relu_row_backward(float *din, const float *dout, const float *in, int64_t F) {
#pragma omp simd
    for (int64_t f = 0; f < F; f++) din[f] = in[f] > 0.0f ? dout[f] : 0.0f;
}

static void swiglu_row(float *out, const float *gate, const float *up, int64_t F) {
    for (int64_t f = 0; f < F; f++) out[f] = gate[f] * sigmoid_f32(gate[f]) * up[f];
}

// silu'(g) = σ(g) (1 + g (1 - σ(g)))
static void swiglu_row_backward(float *dgate, float *dup, const float *dout, const float *gate,
                                const float *up, int64_t F) {
#pragma omp simd
    for (int64_t f = 0; f < F; f++) {
        float g = gate[f], s = sigmoid_f32(g), u = up[f];
        dgate[f] = dout[f] * u * s * (1.0f + g * (1.0f - s));
        dup[f] = dout[f] * g * s;
    }
}

static void forward_row(float *out, const float *in, int64_t F, Activation kind) {
    switch (kind) {
    case SWIGLU:
        swiglu_row(out, in, in + F, F);
        break;
    case RELU:
        relu_row(out, in, F);
        break;
    }
}

static void backward_row(float *din, const float *dout, const float *in, int64_t F,
                         Activation kind) {
    switch (kind) {
    case SWIGLU:
        swiglu_row_backward(din, din + F, dout, in, in + F, F);
        break;
    case RELU:
        relu_row_backward(din, dout, in, F);
        break;
    }
}

// A row of bf16 is widened, and rounded when it is done.
static void forward_bf16(Tensor out, Tensor in, Activation kind) {
    int64_t N = out.shape[0], F = out.shape[1], W = in.shape[1];
    uint16_t *to = tensor_bf16(out);
    const uint16_t *x = tensor_bf16(in);
#pragma omp parallel
    {
        float *row = thread_scratch((size_t)(W + F) * sizeof *row), *y = row + W;
#pragma omp for schedule(static)
        for (int64_t n = 0; n < N; n++) {
            widen_bf16(row, x + n * W, W);
            forward_row(y, row, F, kind);
            round_to_bf16(to + n * F, y, F);
        }
    }
}

static void backward_bf16(Tensor din, Tensor dout, Tensor in, Activation kind) {
    int64_t N = dout.shape[0], F = dout.shape[1], W = in.shape[1];
    uint16_t *to = tensor_bf16(din);
    const uint16_t *dy = tensor_bf16(dout), *x = tensor_bf16(in);
#pragma omp parallel
    {
        float *row = thread_scratch((size_t)(W + F) * sizeof *row), *dy_row = row + W;
#pragma omp for schedule(static)
        for (int64_t n = 0; n < N; n++) {
            widen_bf16(row, x + n * W, W);
            widen_bf16(dy_row, dy + n * F, F);
            backward_row(row, dy_row, row, F, kind);
            round_to_bf16(to + n * W, row, W);
        }
    }
}

void activation_forward_cpu(Device *dev, Tensor out, Tensor in, Activation kind) {
    if (in.dtype == BF16) {
        forward_bf16(out, in, kind);
        return;
    }
    int64_t N = out.shape[0], F = out.shape[1], W = in.shape[1];
    float *to = tensor_f32(out);
    const float *x = tensor_f32(in);
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < N; n++) forward_row(to + n * F, x + n * W, F, kind);
}

void activation_backward_cpu(Device *dev, Tensor din, Tensor dout, Tensor in, Activation kind) {
    if (in.dtype == BF16) {
        backward_bf16(din, dout, in, kind);
        return;
    }
    int64_t N = dout.shape[0], F = dout.shape[1], W = in.shape[1];
    float *to = tensor_f32(din);
    const float *dy = tensor_f32(dout), *x = tensor_f32(in);
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < N; n++) backward_row(to + n * W, dy + n * F, x + n * W, F, kind);
}
