#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/stored_rows.h"
#include "kernels/cpu/vector_math.h"

// The shares of a and of b.
typedef struct Shares {
    float a, b;
} Shares;

static Shares shares_of(Tensor logits, int64_t n) {
    const float *z = tensor_f32(logits) + 2 * n;
    return (Shares){sigmoid_f32(z[0] - z[1]), sigmoid_f32(z[1] - z[0])};
}

// to[n] = share · from
static void scale_row(Tensor to, int64_t n, float share, const float *from, float *room) {
    float *row = result_row(to, n, room);
#pragma omp simd
    for (int64_t d = 0; d < to.shape[1]; d++) row[d] = share * from[d];
    finish_row(to, n, room);
}

void mix_forward_cpu(Device *dev, Tensor out, Tensor a, Tensor b, Tensor logits) {
    int64_t N = out.shape[0], D = out.shape[1];
#pragma omp parallel
    {
        float *room = thread_scratch((size_t)(2 * D) * sizeof *room);
#pragma omp for schedule(static)
        for (int64_t n = 0; n < N; n++) {
            Shares share = shares_of(logits, n);
            const float *of_a = row_as_f32(a, n, room), *of_b = row_as_f32(b, n, room + D);
            float *to = result_row(out, n, room);
#pragma omp simd
            for (int64_t d = 0; d < D; d++) to[d] = share.a * of_a[d] + share.b * of_b[d];
            finish_row(out, n, room);
        }
    }
}

void mix_backward_cpu(Device *dev, Tensor da, Tensor db, Tensor dlogits, Tensor dout, Tensor a,
                      Tensor b, Tensor logits) {
    int64_t N = dout.shape[0], D = dout.shape[1];
#pragma omp parallel
    {
        float *room = thread_scratch((size_t)(2 * D) * sizeof *room);
#pragma omp for schedule(static)
        for (int64_t n = 0; n < N; n++) {
            Shares share = shares_of(logits, n);
            const float *from = row_as_f32(dout, n, room + D);
            float in_a = dot_product(from, row_as_f32(a, n, room), D);
            float in_b = dot_product(from, row_as_f32(b, n, room), D);
            float slope = share.a * share.b * (in_a - in_b);
            tensor_f32(dlogits)[2 * n] = slope;
            tensor_f32(dlogits)[2 * n + 1] = -slope;
            scale_row(da, n, share.a, from, room);
            scale_row(db, n, share.b, from, room);
        }
    }
}
