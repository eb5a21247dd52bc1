#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/stored_rows.h"
#include "kernels/cpu/vector_math.h"

void gated_add_forward_cpu(Device *dev, Tensor out, Tensor y, Tensor logits) {
    int64_t N = y.shape[0], D = y.shape[1];
#pragma omp parallel
    {
        float *room = thread_scratch((size_t)(2 * D) * sizeof *room);
#pragma omp for schedule(static)
        for (int64_t n = 0; n < N; n++) {
            float gate = sigmoid_f32(tensor_f32(logits)[n]);
            const float *from = row_as_f32(y, n, room), *before = row_as_f32(out, n, room + D);
            float *to = result_row(out, n, room + D);
#pragma omp simd
            for (int64_t d = 0; d < D; d++) to[d] = before[d] + gate * from[d];
            finish_row(out, n, room + D);
        }
    }
}

void gated_add_backward_cpu(Device *dev, Tensor dy, Tensor dlogits, Tensor dout, Tensor y,
                            Tensor logits) {
    int64_t N = y.shape[0], D = y.shape[1];
#pragma omp parallel
    {
        float *room = thread_scratch((size_t)(2 * D) * sizeof *room);
#pragma omp for schedule(static)
        for (int64_t n = 0; n < N; n++) {
            float gate = sigmoid_f32(tensor_f32(logits)[n]);
            const float *value = row_as_f32(y, n, room), *from = row_as_f32(dout, n, room + D);
            float *to = result_row(dy, n, room + D);
            tensor_f32(dlogits)[n] = gate * (1.0f - gate) * dot_product(from, value, D);
#pragma omp simd
            for (int64_t d = 0; d < D; d++) to[d] = gate * from[d];
            finish_row(dy, n, room + D);
        }
    }
}
