#include <string.h>

#include "kernels/cpu/bf16.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/vector_math.h"

// ---- the activations ----------------------------------------------------------------------------

// Each is a value and its gradient: of x, or of gate and up.

static inline float relu(float x) {
    return x < 0.0f ? 0.0f : x; // NaN stays NaN
}
static inline void relu_gradient(float *dx, float dout, float x) {
    *dx = x > 0.0f ? dout : 0.0f;
}

static inline float swiglu(float gate, float up) {
    return gate * sigmoid_f32(gate) * up;
}
// silu'(g) = σ(g) (1 + g (1 - σ(g)))
static inline void swiglu_gradient(float *dgate, float *dup, float dout, float gate, float up) {
    float s = sigmoid_f32(gate);
    *dgate = dout * up * s * (1.0f + gate * (1.0f - s));
    *dup = dout * gate * s;
}

// Φ(x) + x φ(x)
static inline float gelu_slope(float x) {
    return normal_share_f32(x) + x * normal_density_f32(x);
}

static inline float gelu(float x) {
    return x * normal_share_f32(x);
}
static inline void gelu_gradient(float *dx, float dout, float x) {
    *dx = dout * gelu_slope(x);
}

// (1 + tanh(u)) / 2 = σ(2u), 2u = 2 √(2/π) (x + 0.044715 x³)
static inline float gelu_tanh_share(float x) {
    return sigmoid_f32(x * (1.59576912f + 0.0713548163f * x * x));
}

static inline float gelu_tanh(float x) {
    return x * gelu_tanh_share(x);
}
static inline void gelu_tanh_gradient(float *dx, float dout, float x) {
    float s = gelu_tanh_share(x);
    *dx = dout * (s + x * s * (1.0f - s) * (1.59576912f + 3.0f * 0.0713548163f * x * x));
}

static inline float geglu(float gate, float up) {
    return gelu(gate) * up;
}
static inline void geglu_gradient(float *dgate, float *dup, float dout, float gate, float up) {
    *dgate = dout * up * gelu_slope(gate);
    *dup = dout * gelu(gate);
}

static inline float relu2(float x) {
    return relu(x) * relu(x);
}
static inline void relu2_gradient(float *dx, float dout, float x) {
    *dx = dout * (2.0f * relu(x));
}

// NaN stays NaN.
static inline float at_most(float x, float limit) {
    return x > limit ? limit : x;
}
static inline float within(float x, float limit) {
    return x < -limit ? -limit : at_most(x, limit);
}

static inline float swiglu_oai(float gate, float up) {
    float g = at_most(gate, 7.0f);
    return g * sigmoid_f32(1.702f * g) * (within(up, 7.0f) + 1.0f);
}
static inline void swiglu_oai_gradient(float *dgate, float *dup, float dout, float gate, float up) {
    float g = at_most(gate, 7.0f), u = within(up, 7.0f), s = sigmoid_f32(1.702f * g);
    *dgate = gate > 7.0f ? 0.0f : dout * (u + 1.0f) * s * (1.0f + 1.702f * g * (1.0f - s));
    *dup = u == up ? dout * g * s : 0.0f;
}

static inline float swiglu_limit(float gate, float up) {
    return swiglu(at_most(gate, 10.0f), within(up, 10.0f));
}
static inline void swiglu_limit_gradient(float *dgate, float *dup, float dout, float gate,
                                         float up) {
    float u = within(up, 10.0f), dg, du;
    swiglu_gradient(&dg, &du, dout, at_most(gate, 10.0f), u);
    *dgate = gate > 10.0f ? 0.0f : dg;
    *dup = u == up ? du : 0.0f;
}

// ---- rows ---------------------------------------------------------------------------------------

// What a row has behind whole registers is computed with the numbers before it in one more, ahead
// of the others, since results may take the place of what they are made of: exponentials one by
// one take as long as eight.
static inline int64_t whole_lanes(int64_t F) {
    return F < LANES ? F : F / LANES * LANES;
}

// The backward loops may work in place, element by element: `omp simd` says so, else the compiler's
// own aliasing test would choose its scalar loop exactly then.
#define ROW_OF_1(word)                                                                             \
    static void word##_forward(float *out, const float *in, int64_t F) {                           \
        int64_t whole = whole_lanes(F), last = F - LANES;                                          \
        float y[LANES];                                                                            \
        for (int i = 0; i < LANES && whole < F; i++) y[i] = word(in[last + i]);                    \
        for (int64_t f = 0; f < whole; f++) out[f] = word(in[f]);                                  \
        if (whole < F) memcpy(out + last, y, sizeof y);                                            \
    }                                                                                              \
    static void word##_backward(float *din, const float *dout, const float *in, int64_t F) {       \
        int64_t whole = whole_lanes(F), last = F - LANES;                                          \
        float dx[LANES];                                                                           \
        for (int i = 0; i < LANES && whole < F; i++)                                               \
            word##_gradient(&dx[i], dout[last + i], in[last + i]);                                 \
        _Pragma("omp simd") for (int64_t f = 0; f < whole; f++)                                    \
            word##_gradient(&din[f], dout[f], in[f]);                                              \
        if (whole < F) memcpy(din + last, dx, sizeof dx);                                          \
    }
#define ROW_OF_2(word)                                                                             \
    static void word##_forward(float *out, const float *in, int64_t F) {                           \
        int64_t whole = whole_lanes(F), last = F - LANES;                                          \
        float y[LANES];                                                                            \
        for (int i = 0; i < LANES && whole < F; i++) y[i] = word(in[last + i], in[F + last + i]);  \
        for (int64_t f = 0; f < whole; f++) out[f] = word(in[f], in[F + f]);                       \
        if (whole < F) memcpy(out + last, y, sizeof y);                                            \
    }                                                                                              \
    static void word##_backward(float *din, const float *dout, const float *in, int64_t F) {       \
        int64_t whole = whole_lanes(F), last = F - LANES;                                          \
        float dgate[LANES], dup[LANES];                                                            \
        for (int i = 0; i < LANES && whole < F; i++)                                               \
            word##_gradient(&dgate[i], &dup[i], dout[last + i], in[last + i], in[F + last + i]);   \
        _Pragma("omp simd") for (int64_t f = 0; f < whole; f++)                                    \
            word##_gradient(&din[f], &din[F + f], dout[f], in[f], in[F + f]);                      \
        if (whole < F) memcpy(din + last, dgate, sizeof dgate);                                    \
        if (whole < F) memcpy(din + F + last, dup, sizeof dup);                                    \
    }
#define ROW(value, word, inputs, meaning) ROW_OF_##inputs(word)
ACTIVATIONS(ROW)
#undef ROW

typedef struct RowFunctions {
    void (*forward)(float *out, const float *in, int64_t F);
    void (*backward)(float *din, const float *dout, const float *in, int64_t F);
} RowFunctions;

static RowFunctions row_functions(Activation kind) {
    switch (kind) {
#define ROW(value, word, inputs, meaning)                                                          \
    case value:                                                                                    \
        return (RowFunctions){word##_forward, word##_backward};
        ACTIVATIONS(ROW)
#undef ROW
    }
    CHECK(false, "activation %d", (int)kind);
}

// ---- matrices -----------------------------------------------------------------------------------

// A row of bf16 is widened, and rounded when it is done.
static void forward_bf16(Tensor out, Tensor in, RowFunctions row_of) {
    int64_t N = out.shape[0], F = out.shape[1], W = in.shape[1];
    uint16_t *to = tensor_bf16(out);
    const uint16_t *x = tensor_bf16(in);
#pragma omp parallel
    {
        float *row = thread_scratch((size_t)(W + F) * sizeof *row), *y = row + W;
#pragma omp for schedule(static)
        for (int64_t n = 0; n < N; n++) {
            widen_bf16(row, x + n * W, W);
            row_of.forward(y, row, F);
            round_to_bf16(to + n * F, y, F);
        }
    }
}

static void backward_bf16(Tensor din, Tensor dout, Tensor in, RowFunctions row_of) {
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
            row_of.backward(row, dy_row, row, F);
            round_to_bf16(to + n * W, row, W);
        }
    }
}

void activation_forward_cpu(Device *dev, Tensor out, Tensor in, Activation kind) {
    RowFunctions row_of = row_functions(kind);
    if (in.dtype == BF16) {
        forward_bf16(out, in, row_of);
        return;
    }
    int64_t N = out.shape[0], F = out.shape[1], W = in.shape[1];
    float *to = tensor_f32(out);
    const float *x = tensor_f32(in);
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < N; n++) row_of.forward(to + n * F, x + n * W, F);
}

void activation_backward_cpu(Device *dev, Tensor din, Tensor dout, Tensor in, Activation kind) {
    RowFunctions row_of = row_functions(kind);
    if (in.dtype == BF16) {
        backward_bf16(din, dout, in, row_of);
        return;
    }
    int64_t N = dout.shape[0], F = dout.shape[1], W = in.shape[1];
    float *to = tensor_f32(din);
    const float *dy = tensor_f32(dout), *x = tensor_f32(in);
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < N; n++) row_of.backward(to + n * W, dy + n * F, x + n * W, F);
}
