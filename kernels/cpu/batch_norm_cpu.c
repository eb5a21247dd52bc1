#include <math.h>

#include "kernels/cpu/cpu_ops.h"

enum { COLUMNS = 64 }; // of a run that one task has

// Some columns of a run of rows.
typedef struct Block {
    int64_t first, end;      // rows
    int64_t column, columns; // of W
    int64_t moments;         // where the columns begin in (G, W)
} Block;

static int64_t blocks_of(int64_t W) {
    return (W + COLUMNS - 1) / COLUMNS;
}

static Block block_at(int64_t i, int64_t rows, int64_t W) {
    int64_t run = i / blocks_of(W), column = i % blocks_of(W) * COLUMNS;
    return (Block){.first = run * rows,
                   .end = (run + 1) * rows,
                   .column = column,
                   .columns = W - column < COLUMNS ? W - column : COLUMNS,
                   .moments = run * W + column};
}

// The variance from differences to the mean: that of the squares would be lost where the mean is
// large.
static void block_moments(ColumnMoments to, double *sums, double *squares, Tensor x, Block b) {
    int64_t W = x.shape[1];
    double n = (double)(b.end - b.first), sum[COLUMNS] = {0}, square[COLUMNS] = {0};
    double spread[COLUMNS] = {0};
    for (int64_t r = b.first; r < b.end; r++) {
        const float *row = tensor_f32(x) + r * W + b.column;
        for (int64_t c = 0; c < b.columns; c++) {
            sum[c] += row[c];
            square[c] += (double)row[c] * row[c];
        }
    }
    for (int64_t r = b.first; r < b.end; r++) {
        const float *row = tensor_f32(x) + r * W + b.column;
        for (int64_t c = 0; c < b.columns; c++) {
            double apart = row[c] - sum[c] / n;
            spread[c] += apart * apart;
        }
    }
    for (int64_t c = 0; c < b.columns; c++) {
        tensor_f32(to.mean)[b.moments + c] = (float)(sum[c] / n);
        tensor_f32(to.variance)[b.moments + c] = (float)(spread[c] / n);
        sums[c] += sum[c];
        squares[c] += square[c];
    }
}

void column_moments_cpu(Device *dev, ColumnMoments moments, Tensor sums, int64_t column, Tensor x) {
    int64_t G = moments.mean.shape[0], W = x.shape[1], rows = x.shape[0] / G;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < G * blocks_of(W); i++) {
        Block b = block_at(i, rows, W);
        double *to = tensor_f64(sums) + i / blocks_of(W) * sums.shape[1] + column + b.column;
        block_moments(moments, to, to + W, x, b);
    }
}

void normalize_columns_cpu(Device *dev, Tensor out, Tensor x, ColumnMoments moments) {
    int64_t G = moments.mean.shape[0], W = x.shape[1], rows = x.shape[0] / G;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < G * blocks_of(W); i++) {
        Block b = block_at(i, rows, W);
        const float *mean = tensor_f32(moments.mean) + b.moments;
        float factor[COLUMNS];
        for (int64_t c = 0; c < b.columns; c++)
            factor[c] = 1 / sqrtf(tensor_f32(moments.variance)[b.moments + c] + BATCH_NORM_EPS);
        for (int64_t r = b.first; r < b.end; r++)
            for (int64_t c = 0; c < b.columns; c++) {
                int64_t at = r * W + b.column + c;
                tensor_f32(out)[at] = (tensor_f32(x)[at] - mean[c]) * factor[c];
            }
    }
}

// dx = (dout - mean(dout) - out mean(dout out)) / sqrt(variance + eps)
static void block_backward(float *dx, const float *dout, const float *out, const float *variance,
                           int64_t W, Block b) {
    double n = (double)(b.end - b.first), sum[COLUMNS] = {0}, along[COLUMNS] = {0};
    float mean[COLUMNS], slope[COLUMNS], factor[COLUMNS];
    for (int64_t r = b.first; r < b.end; r++)
        for (int64_t c = 0; c < b.columns; c++) {
            int64_t at = r * W + b.column + c;
            sum[c] += dout[at];
            along[c] += (double)dout[at] * out[at];
        }
    for (int64_t c = 0; c < b.columns; c++) {
        mean[c] = (float)(sum[c] / n);
        slope[c] = (float)(along[c] / n);
        factor[c] = 1 / sqrtf(variance[b.moments + c] + BATCH_NORM_EPS);
    }
    for (int64_t r = b.first; r < b.end; r++)
        for (int64_t c = 0; c < b.columns; c++) {
            int64_t at = r * W + b.column + c;
            dx[at] = (dout[at] - mean[c] - out[at] * slope[c]) * factor[c];
        }
}

void normalize_columns_backward_cpu(Device *dev, Tensor dx, Tensor dout, Tensor out,
                                    Tensor variance) {
    int64_t G = variance.shape[0], W = out.shape[1], rows = out.shape[0] / G;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < G * blocks_of(W); i++)
        block_backward(tensor_f32(dx), tensor_f32(dout), tensor_f32(out), tensor_f32(variance), W,
                       block_at(i, rows, W));
}
