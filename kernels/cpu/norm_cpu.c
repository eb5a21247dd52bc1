#include <math.h>
#include <string.h>

#include "kernels/cpu/bf16.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/vector_math.h"

// ---- the norms ----------------------------------------------------------------------------------

// Each is what it makes of a row of x, y, which is another one, and what it adds to dx. `rstd` and
// `mean` are the row's statistics; mean and bias are NULL where the norm has none.

static void rmsnorm_forward(float *restrict y, float *rstd, float *mean, const float *x,
                            const float *weight, const float *bias, float eps, int64_t D) {
    (void)mean, (void)bias;
    float scale = *rstd = 1.0f / sqrtf(dot_product(x, x, D) / (float)D + eps);
    for (int64_t d = 0; d < D; d++) y[d] = x[d] * scale * weight[d];
}

// dx += rstd (g - x̂ mean(g x̂)), g = dout · weight, x̂ = x · rstd
static void rmsnorm_backward(float *dx, const float *dout, const float *x, float rstd, float mean,
                             const float *w, int64_t D) {
    (void)mean;
    Lanes sums = {0};
    int64_t d = 0;
    for (; d + LANES <= D; d += LANES)
        sums = lanes_fma(lanes_load(dout + d) * lanes_load(w + d), lanes_load(x + d), sums);
    float sum = lanes_sum(sums);
    for (; d < D; d++) sum += dout[d] * w[d] * x[d];
    float slope = sum * rstd * rstd / (float)D;
    for (d = 0; d < D; d++) dx[d] += rstd * (dout[d] * w[d] - x[d] * slope);
}

static void layernorm_forward(float *restrict y, float *rstd, float *mean, const float *x,
                              const float *weight, const float *bias, float eps, int64_t D) {
    float shift = *mean = sum_of(x, D) / (float)D;
    for (int64_t d = 0; d < D; d++) y[d] = x[d] - shift;
    float scale = *rstd = 1.0f / sqrtf(dot_product(y, y, D) / (float)D + eps);
    for (int64_t d = 0; d < D; d++) y[d] = y[d] * scale * weight[d] + bias[d];
}

// dx += rstd (g - x̂ mean(g x̂) - mean(g)), g = dout · weight, x̂ = (x - mean) · rstd
static void layernorm_backward(float *dx, const float *dout, const float *x, float rstd, float mean,
                               const float *w, int64_t D) {
    Lanes products = {0}, sums = {0};
    int64_t d = 0;
    for (; d + LANES <= D; d += LANES) {
        Lanes g = lanes_load(dout + d) * lanes_load(w + d);
        products = lanes_fma(g, lanes_load(x + d) - mean, products);
        sums += g;
    }
    float product = lanes_sum(products), sum = lanes_sum(sums);
    for (; d < D; d++) {
        product += dout[d] * w[d] * (x[d] - mean);
        sum += dout[d] * w[d];
    }
    float slope = product * rstd * rstd / (float)D, shift = sum / (float)D;
    for (d = 0; d < D; d++) dx[d] += rstd * (dout[d] * w[d] - (x[d] - mean) * slope - shift);
}

static void forward_row(NormRule rule, float *y, float *rstd, float *mean, const float *x,
                        const float *weight, const float *bias, int64_t D) {
    switch (rule.kind) {
#define ROW(value, word, params, statistics, meaning)                                              \
    case value:                                                                                    \
        word##_forward(y, rstd, mean, x, weight, bias, rule.eps, D);                               \
        break;
        NORMS(ROW)
#undef ROW
    }
}

static void backward_row(NormRule rule, float *dx, const float *dout, const float *x, float rstd,
                         float mean, const float *weight, int64_t D) {
    switch (rule.kind) {
#define ROW(value, word, params, statistics, meaning)                                              \
    case value:                                                                                    \
        word##_backward(dx, dout, x, rstd, mean, weight, D);                                       \
        break;
        NORMS(ROW)
#undef ROW
    }
}

// ---- forward ------------------------------------------------------------------------------------

// bf16 rows pass through a row of f32 scratch; everything else is the same for both.
void normalize_forward_cpu(Device *dev, Tensor out, Tensor statistics, Tensor sum, Tensor x,
                           Tensor branch, NormParams params, NormRule rule) {
    int64_t N = x.shape[0], D = x.shape[1];
    bool wide = out.dtype == F32;
    const float *w = tensor_f32(params.weight), *before = tensor_f32(x);
    const float *bias = norm_has_bias(rule.kind) ? tensor_f32(params.bias) : NULL;
    const float *in = branch.data ? tensor_f32(sum) : before;
    const float *added = branch.data && wide ? tensor_f32(branch) : NULL;
    const uint16_t *added16 = branch.data && !wide ? tensor_bf16(branch) : NULL;
    float *total = branch.data ? tensor_f32(sum) : NULL, *rstd = tensor_f32(statistics);
    float *mean = norm_statistics(rule.kind) > 1 ? rstd + N : NULL;
    float *to = wide ? tensor_f32(out) : NULL;
    uint16_t *to16 = wide ? NULL : tensor_bf16(out);
#pragma omp parallel
    {
        float *spare = wide ? NULL : thread_scratch((size_t)D * sizeof *spare);
#pragma omp for schedule(static)
        for (int64_t n = 0; n < N; n++) {
            const float *row = in + n * D;
            float *y = wide ? to + n * D : spare;
            if (branch.data) {
                const float *b = wide ? added + n * D : spare;
                if (!wide) widen_bf16(spare, added16 + n * D, D);
#pragma omp simd // total may be before: as in activation_cpu.c
                for (int64_t d = 0; d < D; d++) total[n * D + d] = before[n * D + d] + b[d];
            }
            forward_row(rule, y, rstd + n, mean ? mean + n : NULL, row, w, bias, D);
            if (!wide) round_to_bf16(to16 + n * D, y, D);
        }
    }
}

// ---- backward -----------------------------------------------------------------------------------

enum { COLUMNS = 4 * LANES }; // of the gradients that one task sums down a part's rows

// weight[0..columns) = Σ over the rows of dout · (x - mean) · rstd, bias[0..columns) = Σ dout; mean
// and bias may be NULL. A twin for each storage of dout.
#define SUM_GRADIENTS(name, stored, wide)                                                          \
    static void name(float *weight, float *bias, const stored *dout, const float *x,               \
                     const float *rstd, const float *mean, int64_t rows, int64_t D,                \
                     int64_t columns) {                                                            \
        float total[COLUMNS] = {0}, shift[COLUMNS] = {0};                                          \
        for (int64_t n = 0; n < rows && !mean; n++)                                                \
            for (int64_t d = 0; d < columns; d++)                                                  \
                total[d] += wide(dout[n * D + d]) * (x[n * D + d] * rstd[n]);                      \
        for (int64_t n = 0; n < rows && mean; n++)                                                 \
            for (int64_t d = 0; d < columns; d++)                                                  \
                total[d] += wide(dout[n * D + d]) * ((x[n * D + d] - mean[n]) * rstd[n]);          \
        for (int64_t n = 0; n < rows && bias; n++)                                                 \
            for (int64_t d = 0; d < columns; d++) shift[d] += wide(dout[n * D + d]);               \
        memcpy(weight, total, (size_t)columns * sizeof *weight);                                   \
        if (bias) memcpy(bias, shift, (size_t)columns * sizeof *bias);                             \
    }
SUM_GRADIENTS(sum_gradients, float, )
SUM_GRADIENTS(sum_gradients_bf16, uint16_t, f32_from_bf16)

void normalize_backward_cpu(Device *dev, Tensor dx, NormParams dparams, Tensor dout, Tensor x,
                            Tensor statistics, NormParams params, NormRule rule, Tensor partial) {
    int64_t N = x.shape[0], D = x.shape[1], parts = partial.shape[0], rows = N / parts;
    bool wide = dout.dtype == F32;
    const float *dy = wide ? tensor_f32(dout) : NULL;
    const uint16_t *dy16 = wide ? NULL : tensor_bf16(dout);
    const float *in = tensor_f32(x), *rstd = tensor_f32(statistics), *w = tensor_f32(params.weight);
    float *to = tensor_f32(dx), *sums = tensor_f32(partial), *dw = tensor_f32(dparams.weight);
    const float *mean = norm_statistics(rule.kind) > 1 ? rstd + N : NULL;
    bool biased = norm_has_bias(rule.kind);
    int64_t W = biased ? 2 * D : D; // of a row of sums: dweight, then dbias
#pragma omp parallel
    {
        float *spare = wide ? NULL : thread_scratch((size_t)D * sizeof *spare);
#pragma omp for schedule(static) nowait
        for (int64_t n = 0; n < N; n++) {
            if (!wide) widen_bf16(spare, dy16 + n * D, D);
            backward_row(rule, to + n * D, wide ? dy + n * D : spare, in + n * D, rstd[n],
                         mean ? mean[n] : 0, w, D);
        }
#pragma omp for schedule(static) collapse(2)
        for (int64_t p = 0; p < parts; p++)
            for (int64_t d = 0; d < D; d += COLUMNS) {
                int64_t at = p * rows * D + d, columns = D - d < COLUMNS ? D - d : COLUMNS;
                float *sum = sums + p * W + d, *bias = biased ? sum + D : NULL;
                const float *scale = rstd + p * rows, *shift = mean ? mean + p * rows : NULL;
                if (wide) {
                    sum_gradients(sum, bias, dy + at, in + at, scale, shift, rows, D, columns);
                } else {
                    sum_gradients_bf16(sum, bias, dy16 + at, in + at, scale, shift, rows, D,
                                       columns);
                }
            }
    }
    for (int64_t apart = 1; apart < parts; apart *= 2)
        for (int64_t p = 0; p < parts; p += 2 * apart)
            for (int64_t d = 0; d < W; d++) sums[p * W + d] += sums[(p + apart) * W + d];
    memcpy(dw, sums, (size_t)D * sizeof *dw);
    if (biased) memcpy(tensor_f32(dparams.bias), sums + D, (size_t)D * sizeof *dw);
}
