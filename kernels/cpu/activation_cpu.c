#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/vector_math.h"

static void relu_row(float *out, const float *in, int64_t F) {
    for (int64_t f = 0; f < F; f++) out[f] = in[f] < 0.0f ? 0.0f : in[f]; // NaN stays NaN
}

// The backward loops may work in place, element by element: `omp simd` says so, else the compiler's own
// aliasing test would choose its scalar loop exactly then.
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

void activation_forward_cpu(Device *dev, Tensor out, Tensor in, Activation kind) {
    int64_t N = out.shape[0], F = out.shape[1], W = in.shape[1];
    float *to = tensor_f32(out);
    const float *x = tensor_f32(in);
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < N; n++) switch (kind) {
        case SWIGLU:
            swiglu_row(to + n * F, x + n * W, x + n * W + F, F);
            break;
        case RELU:
            relu_row(to + n * F, x + n * W, F);
            break;
        }
}

void activation_backward_cpu(Device *dev, Tensor din, Tensor dout, Tensor in, Activation kind) {
    int64_t N = dout.shape[0], F = dout.shape[1], W = in.shape[1];
    float *to = tensor_f32(din);
    const float *dy = tensor_f32(dout), *x = tensor_f32(in);
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < N; n++) switch (kind) {
        case SWIGLU:
            swiglu_row_backward(to + n * W, to + n * W + F, dy + n * F, x + n * W, x + n * W + F,
                                F);
            break;
        case RELU:
            relu_row_backward(to + n * W, dy + n * F, x + n * W, F);
            break;
        }
}
