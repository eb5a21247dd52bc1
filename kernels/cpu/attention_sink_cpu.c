#include "kernels/cpu/bf16.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/vector_math.h"

// Of row and head `at`, d_value wide.
static float delta_of(Tensor dout, Tensor out, int64_t at, int64_t d_value, float *room) {
    int64_t first = at * d_value;
    if (out.dtype == F32)
        return dot_product(tensor_f32(dout) + first, tensor_f32(out) + first, d_value);
    widen_bf16(room, tensor_bf16(dout) + first, d_value);
    widen_bf16(room + d_value, tensor_bf16(out) + first, d_value);
    return dot_product(room, room + d_value, d_value);
}

void attention_sink_backward_cpu(Device *dev, Tensor dsinks, Tensor dout, Tensor out, Tensor lse,
                                 Tensor sinks) {
    int64_t N = lse.shape[0], H = lse.shape[1], d_value = out.shape[1] / H;
    const float *lse_of = tensor_f32(lse), *sink = tensor_f32(sinks);
    float *to = tensor_f32(dsinks);
#pragma omp parallel
    {
        float *room = thread_scratch((size_t)(2 * d_value) * sizeof *room);
#pragma omp for schedule(static)
        for (int64_t n = 0; n < N; n++)
            for (int64_t at = n * H; at < (n + 1) * H; at++)
                to[at] = -exp_f32(sink[at - n * H] - lse_of[at]) *
                         delta_of(dout, out, at, d_value, room);
    }
}
