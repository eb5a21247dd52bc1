#include <math.h>
#include <string.h>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/vector_math.h"

void rmsnorm_forward_cpu(Device *dev, Tensor out, Tensor rstd, Tensor x, Tensor weight, float eps) {
    int64_t N = x.shape[0], D = x.shape[1];
    const float *w = tensor_f32(weight), *in = tensor_f32(x);
    float *to = tensor_f32(out), *r = tensor_f32(rstd);
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < N; n++) {
        const float *row = in + n * D;
        float *y = to + n * D;
        float scale = 1.0f / sqrtf(dot_product(row, row, D) / (float)D + eps);
        r[n] = scale;
        for (int64_t d = 0; d < D; d++) y[d] = row[d] * scale * w[d];
    }
}

// dx += rstd (g - x̂ mean(g x̂)), g = dout · weight, x̂ = x · rstd
static void add_input_gradient(float *dx, const float *dout, const float *x, float rstd,
                               const float *w, int64_t D) {
    Lanes sums = {0};
    int64_t d = 0;
    for (; d + LANES <= D; d += LANES)
        sums = lanes_fma(lanes_load(dout + d) * lanes_load(w + d), lanes_load(x + d), sums);
    float sum = lanes_sum(sums);
    for (; d < D; d++) sum += dout[d] * w[d] * x[d];
    float slope = sum * rstd * rstd / (float)D;
    for (d = 0; d < D; d++) dx[d] += rstd * (dout[d] * w[d] - x[d] * slope);
}

enum { COLUMNS = 4 * LANES }; // of dweight that one task sums down a part's rows

// sum[0..columns) = Σ over the rows of dout · x · rstd
static void sum_weight_gradient(float *sum, const float *dout, const float *x, const float *rstd,
                                int64_t rows, int64_t D, int64_t columns) {
    float total[COLUMNS] = {0};
    for (int64_t n = 0; n < rows; n++)
        for (int64_t d = 0; d < columns; d++)
            total[d] += dout[n * D + d] * (x[n * D + d] * rstd[n]);
    memcpy(sum, total, (size_t)columns * sizeof *sum);
}

void rmsnorm_backward_cpu(Device *dev, Tensor dx, Tensor dweight, Tensor dout, Tensor x,
                          Tensor rstd, Tensor weight, int64_t parts, Tensor partial) {
    int64_t N = x.shape[0], D = x.shape[1], rows = N / parts;
    const float *dy = tensor_f32(dout), *in = tensor_f32(x), *r = tensor_f32(rstd);
    const float *w = tensor_f32(weight);
    float *to = tensor_f32(dx), *sums = tensor_f32(partial), *dw = tensor_f32(dweight);
#pragma omp parallel
    {
#pragma omp for schedule(static) nowait
        for (int64_t n = 0; n < N; n++)
            add_input_gradient(to + n * D, dy + n * D, in + n * D, r[n], w, D);
#pragma omp for schedule(static) collapse(2)
        for (int64_t p = 0; p < parts; p++)
            for (int64_t d = 0; d < D; d += COLUMNS) {
                int64_t at = p * rows * D + d, columns = D - d < COLUMNS ? D - d : COLUMNS;
                sum_weight_gradient(sums + p * D + d, dy + at, in + at, r + p * rows, rows, D,
                                    columns);
            }
    }
    for (int64_t apart = 1; apart < parts; apart *= 2)
        for (int64_t p = 0; p < parts; p += 2 * apart)
            for (int64_t d = 0; d < D; d++) sums[p * D + d] += sums[(p + apart) * D + d];
    memcpy(dw, sums, (size_t)D * sizeof *dw);
}
