#include <string.h>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/vector_math.h"

// A counting sort by (expert, part): count, turn counts into first rows, deal the rows out in (token, slot)
// order. Each part counts and deals alone.
void permutation_plan_cpu(Device *dev, Tensor slot_row, Tensor row_choice, Tensor counts,
                          Tensor ids, Tensor kept, int64_t parts) {
    int64_t choices = tensor_elements(ids), E = counts.shape[0], per_part = choices / parts;
    const int32_t *id = tensor_i32(ids);
    const uint8_t *keep = tensor_u8(kept);
    int32_t *row_of = tensor_i32(slot_row), *choice_of = tensor_i32(row_choice);
    int32_t *count = tensor_i32(counts);
    int32_t *next = thread_scratch((size_t)(E * parts) * sizeof *next); // first free row of a run
    memset(count, 0, (size_t)(E * parts) * sizeof *count);
#pragma omp parallel for schedule(static)
    for (int64_t p = 0; p < parts; p++)
        for (int64_t c = p * per_part; c < (p + 1) * per_part; c++)
            count[id[c] * parts + p] += keep[c] != 0;
    int32_t rows = 0;
    for (int64_t run = 0; run < E * parts; run++) {
        next[run] = rows;
        rows += count[run];
    }
#pragma omp parallel for schedule(static)
    for (int64_t p = 0; p < parts; p++)
        for (int64_t c = p * per_part; c < (p + 1) * per_part; c++) {
            int32_t row = keep[c] ? next[id[c] * parts + p]++ : -1;
            row_of[c] = row;
            if (row >= 0) choice_of[row] = (int32_t)c;
        }
    for (int64_t r = rows; r < choices; r++) choice_of[r] = -1;
}

void gather_rows_cpu(Device *dev, Tensor out, Tensor x, Tensor index, int64_t rows,
                     int64_t divisor) {
    int64_t D = x.shape[1];
    float *to = tensor_f32(out);
    const float *from = tensor_f32(x);
    const int32_t *at = tensor_i32(index);
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++)
        memcpy(to + r * D, from + at[r] / divisor * D, (size_t)D * sizeof *to);
}

void combine_forward_cpu(Device *dev, Tensor out, Tensor y, Tensor slot_row, Tensor weights) {
    int64_t N = out.shape[0], D = out.shape[1], K = slot_row.shape[1];
    float *to = tensor_f32(out);
    const float *from = tensor_f32(y), *weight = weights.data ? tensor_f32(weights) : NULL;
    const int32_t *row = tensor_i32(slot_row);
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < N; n++) {
        float *sum = to + n * D;
        memset(sum, 0, (size_t)D * sizeof *sum);
        for (int64_t c = n * K; c < (n + 1) * K; c++) {
            if (row[c] < 0) continue;
            const float *part = from + row[c] * D;
            float w = weight ? weight[c] : 1.0f;
            for (int64_t d = 0; d < D; d++) sum[d] += w * part[d];
        }
    }
}

void combine_backward_cpu(Device *dev, Tensor dy, Tensor dweights, Tensor dout, Tensor y,
                          Tensor slot_row, Tensor weights) {
    int64_t N = dout.shape[0], D = dout.shape[1], K = slot_row.shape[1];
    float *to = tensor_f32(dy), *dweight = tensor_f32(dweights);
    const float *from = tensor_f32(y), *gradient = tensor_f32(dout), *weight = tensor_f32(weights);
    const int32_t *row = tensor_i32(slot_row);
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < N; n++) {
        const float *dsum = gradient + n * D;
        for (int64_t c = n * K; c < (n + 1) * K; c++) {
            dweight[c] = 0.0f;
            if (row[c] < 0) continue;
            int64_t at = row[c] * D; // read y before dy overwrites it: they may be one
            dweight[c] = dot_product(dsum, from + at, D);
            for (int64_t d = 0; d < D; d++) to[at + d] = weight[c] * dsum[d];
        }
    }
}

void renormalize_forward_cpu(Device *dev, Tensor scaled, Tensor weights, Tensor kept) {
    int64_t N = weights.shape[0], K = weights.shape[1];
    float *to = tensor_f32(scaled);
    const float *weight = tensor_f32(weights);
    const uint8_t *keep = tensor_u8(kept);
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < N; n++) {
        float sum = 0.0f;
        for (int64_t c = n * K; c < (n + 1) * K; c++) sum += keep[c] ? weight[c] : 0.0f;
        for (int64_t c = n * K; c < (n + 1) * K; c++)
            to[c] = keep[c] && sum > 0.0f ? weight[c] / sum : 0.0f;
    }
}

// s_k = w_k / Σ w over the kept: dw_k = (ds_k - Σ_j ds_j s_j) / Σ w
void renormalize_backward_cpu(Device *dev, Tensor dscaled, Tensor scaled, Tensor weights,
                              Tensor kept) {
    int64_t N = weights.shape[0], K = weights.shape[1];
    float *gradient = tensor_f32(dscaled);
    const float *weight = tensor_f32(weights), *share = tensor_f32(scaled);
    const uint8_t *keep = tensor_u8(kept);
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < N; n++) {
        float sum = 0.0f, mean = 0.0f;
        for (int64_t c = n * K; c < (n + 1) * K; c++) {
            sum += keep[c] ? weight[c] : 0.0f;
            mean += keep[c] ? gradient[c] * share[c] : 0.0f;
        }
        for (int64_t c = n * K; c < (n + 1) * K; c++)
            gradient[c] = keep[c] && sum > 0.0f ? (gradient[c] - mean) / sum : 0.0f;
    }
}
