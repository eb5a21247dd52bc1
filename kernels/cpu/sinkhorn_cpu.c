#include <math.h>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/vector_math.h"

// Σ d a, in four partial sums.
static double product(const double *d, const float *a, int64_t E) {
    double s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    int64_t e = 0;
    for (; e + 4 <= E; e += 4) {
        s0 += d[e] * (double)a[e];
        s1 += d[e + 1] * (double)a[e + 1];
        s2 += d[e + 2] * (double)a[e + 2];
        s3 += d[e + 3] * (double)a[e + 3];
    }
    for (; e < E; e++) s0 += d[e] * (double)a[e];
    return (s0 + s1) + (s2 + s3);
}

// A row's factor is needed once in an iteration, when its columns are added, and not kept.
//   room (2 E)
static void bias_of_part(float *bias, const float *a, double *room, int64_t rows, int64_t E,
                         int64_t iterations) {
    double *d = room, *column = room + E;
    for (int64_t e = 0; e < E; e++) d[e] = 1;
    for (int64_t i = 0; i < iterations; i++) {
        for (int64_t e = 0; e < E; e++) column[e] = 0;
        for (int64_t n = 0; n < rows; n++) {
            double c = 1 / ((double)rows * product(d, a + n * E, E));
            for (int64_t e = 0; e < E; e++) column[e] += c * (double)a[n * E + e];
        }
        for (int64_t e = 0; e < E; e++) d[e] = 1 / ((double)E * (column[e] + SINKHORN_LEAST));
    }
    for (int64_t e = 0; e < E; e++) bias[e] = (float)log(d[e]);
}

void sinkhorn_bias_cpu(Device *dev, Tensor bias, Tensor logits, Tensor a, Tensor c,
                       int64_t iterations) {
    int64_t N = logits.shape[0], E = logits.shape[1], parts = bias.shape[0], rows = N / parts;
    const float *z = tensor_f32(logits);
    float *of_rows = tensor_f32(a), *b = tensor_f32(bias);
    // Two of E numbers for each part.
    double *room = thread_scratch((size_t)(2 * parts * E) * sizeof *room);
#pragma omp parallel
    {
#pragma omp for schedule(static)
        for (int64_t n = 0; n < N; n++) {
            float best = max_of(z + n * E, E);
            for (int64_t e = 0; e < E; e++) of_rows[n * E + e] = exp_f32(z[n * E + e] - best);
        }
#pragma omp for schedule(static)
        for (int64_t p = 0; p < parts; p++)
            bias_of_part(b + p * E, of_rows + p * rows * E, room + 2 * p * E, rows, E, iterations);
    }
}
