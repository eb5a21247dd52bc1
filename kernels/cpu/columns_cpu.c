#include <string.h>

#include "kernels/cpu/bf16.h"
#include "kernels/cpu/cpu_ops.h"

static float number_at(Tensor x, int64_t i) {
    return x.dtype == F32 ? tensor_f32(x)[i] : f32_from_bf16(tensor_bf16(x)[i]);
}

static void sum_block(Tensor out, int64_t to, Tensor x, int64_t from, ColumnBlocks c) {
    for (int64_t j = 0; j < c.width; j++) {
        float sum = number_at(x, from + j);
        for (int64_t t = 1; t < c.terms; t++) sum += number_at(x, from + t * c.term_stride + j);
        if (out.dtype == F32)
            tensor_f32(out)[to + j] = sum;
        else
            tensor_bf16(out)[to + j] = bf16_from_f32(sum);
    }
}

void copy_columns_cpu(Device *dev, Tensor out, Tensor x, ColumnBlocks c) {
    int64_t N = out.shape[0];
    bool same = c.terms == 1 && out.dtype == x.dtype;
    int64_t bytes = out.dtype == F32 ? 4 : 2;
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < N; r++)
        for (int64_t b = 0; b < c.blocks; b++) {
            int64_t to = r * out.shape[1] + c.out_first + b * c.out_stride;
            int64_t from = r * x.shape[1] + c.x_first + b * c.x_stride;
            if (same)
                memcpy((char *)out.data + to * bytes, (const char *)x.data + from * bytes,
                       (size_t)(c.width * bytes));
            else
                sum_block(out, to, x, from, c);
        }
}
