// Batch normalization of columns by runs of rows against sums in double, on every device; a run's
// bits depend neither on its neighbours nor on the number of threads.
#include "harness.h"

#include <math.h>

typedef struct Case {
    Tensor x, dout;        // (N, W)
    Tensor out, dx, sums;  // (N, W), (G, 2 W + 3) f64
    ColumnMoments moments; // (G, W)
} Case;

enum { FIRST = 2 }; // column of the sums

// Columns with means far from their spread, and one that is constant.
static Case new_case(int64_t G, int64_t rows, int64_t W) {
    Case c = {.x = random_2d(G * rows, W),
              .dout = random_2d(G * rows, W),
              .out = new_2d(F32, G * rows, W),
              .dx = new_2d(F32, G * rows, W),
              .sums = new_2d(F64, G, 2 * W + 3),
              .moments = {new_2d(F32, G, W), new_2d(F32, G, W)}};
    for (int64_t n = 0; n < G * rows; n++)
        for (int64_t w = 0; w < W; w++)
            tensor_f32(c.x)[n * W + w] = w % 5 == 4 ? 3 : tensor_f32(c.x)[n * W + w] + (float)w;
    for (int64_t i = 0; i < G * (2 * W + 3); i++) tensor_f64(c.sums)[i] = 1;
    return c;
}

static void run_ops(Device *dev, void *context) {
    Case *c = context;
    column_moments(dev, c->moments, c->sums, FIRST, c->x);
    normalize_columns(dev, c->out, c->x, c->moments);
    normalize_columns_backward(dev, c->dx, c->dout, c->out, c->moments.variance);
}
static void run_case(Device *dev, Case *c) {
    run_on(dev, run_ops, c,
           TENSORS(&c->x, &c->dout, &c->out, &c->dx, &c->sums, &c->moments.mean,
                   &c->moments.variance));
}

typedef struct Expected {
    double *mean, *variance, *sums, *out, *dx, *out_unit, *dx_unit;
} Expected;

// One column of one run.
static void expect_column(Expected e, const Case *c, int64_t g, int64_t rows, int64_t w) {
    int64_t W = c->x.shape[1], at = g * rows * W + w;
    const float *x = tensor_f32(c->x) + at, *dout = tensor_f32(c->dout) + at;
    double sum = 0, square = 0, spread = 0, mean_dout = 0, slope = 0;
    for (int64_t r = 0; r < rows; r++) {
        sum += x[r * W];
        square += (double)x[r * W] * x[r * W];
        mean_dout += dout[r * W] / (double)rows;
    }
    double mean = sum / (double)rows;
    for (int64_t r = 0; r < rows; r++) spread += (x[r * W] - mean) * (x[r * W] - mean);
    double variance = spread / (double)rows, scale = 1 / sqrt(variance + 1e-5);
    e.mean[g * W + w] = mean;
    e.variance[g * W + w] = variance;
    double *sums = e.sums + g * (2 * W + 3);
    sums[FIRST + w] += sum;
    sums[FIRST + W + w] += square;
    for (int64_t r = 0; r < rows; r++) {
        e.out[at + r * W] = (x[r * W] - mean) * scale;
        slope += dout[r * W] * e.out[at + r * W] / (double)rows;
    }
    for (int64_t r = 0; r < rows; r++) {
        double out = e.out[at + r * W];
        e.dx[at + r * W] = (dout[r * W] - mean_dout - out * slope) * scale;
        e.out_unit[at + r * W] = fabs(mean) * scale + fabs(out);
        // What out has lost is in its slope, too.
        e.dx_unit[at + r * W] =
            (1 + fabs(dout[r * W]) + fabs(out * slope)) * scale * (1 + fabs(mean) * scale);
    }
}

static void check_on(Device *dev, int64_t G, int64_t rows, int64_t W) {
    begin_case("batch norm on %s: %lld runs of %lld rows, W=%lld", dev->name, (long long)G,
               (long long)rows, (long long)W);
    Case c = new_case(G, rows, W);
    int64_t n = G * rows * W;
    Expected e = {new_doubles(G * W), new_doubles(G * W), new_doubles(G * (2 * W + 3)),
                  new_doubles(n),     new_doubles(n),     new_doubles(n),
                  new_doubles(n)};
    for (int64_t i = 0; i < G * (2 * W + 3); i++) e.sums[i] = 1;
    for (int64_t g = 0; g < G; g++)
        for (int64_t w = 0; w < W; w++) expect_column(e, &c, g, rows, w);
    run_case(dev, &c);
    // Sums in double, rounded once; those of thousands of squares to their last few bits.
    expect_near("mean", c.moments.mean, e.mean, F32_EPS, NULL, 1e-12);
    expect_near("variance", c.moments.variance, e.variance, F32_EPS, NULL, 1e-12);
    expect_near("sums", c.sums, e.sums, 1e-13, NULL, 0);
    // The mean's rounding, that of the difference, of the factor and of the product.
    expect_near("out", c.out, e.out, 0, e.out_unit, 4 * F32_EPS);
    expect_near("dx", c.dx, e.dx, 0, e.dx_unit, 8 * F32_EPS);
    if (dev->place == ON_HOST)
        expect_same_for_any_threads(run_ops, &c, (Tensor[]){c.out, c.dx, c.moments.mean}, 3);
    if (G > 1) { // the last run alone
        Case one = c;
        one.x = tensor_rows(c.x, (G - 1) * rows, rows);
        one.dout = tensor_rows(c.dout, (G - 1) * rows, rows);
        one.out = new_2d(F32, rows, W);
        one.dx = new_2d(F32, rows, W);
        one.sums = new_2d(F64, 1, 2 * W + 3);
        one.moments = (ColumnMoments){new_2d(F32, 1, W), new_2d(F32, 1, W)};
        run_case(dev, &one);
        expect_same_bytes("out of a run alone", one.out, tensor_f32(c.out) + (G - 1) * rows * W);
        expect_same_bytes("dx of a run alone", one.dx, tensor_f32(c.dx) + (G - 1) * rows * W);
    }
    release_all();
}

// By moments that are not the rows' own, one run for all, and into x itself.
static void run_averages(Device *dev, void *context) {
    Case *c = context;
    normalize_columns(dev, c->x, c->x, c->moments);
}
static void check_averages(Device *dev, int64_t rows, int64_t W) {
    begin_case("averages on %s: %lld rows, W=%lld", dev->name, (long long)rows, (long long)W);
    Case c = new_case(1, rows, W);
    double *want = new_doubles(rows * W), *unit = new_doubles(rows * W);
    for (int64_t w = 0; w < W; w++) {
        tensor_f32(c.moments.mean)[w] = (float)w / 2;
        tensor_f32(c.moments.variance)[w] = 0.25f * (float)w;
    }
    for (int64_t i = 0; i < rows * W; i++) {
        double mean = (double)(i % W) / 2, scale = 1 / sqrt(0.25 * (double)(i % W) + 1e-5);
        want[i] = (tensor_f32(c.x)[i] - mean) * scale;
        unit[i] = (fabs(mean) + fabs(tensor_f32(c.x)[i])) * scale;
    }
    run_on(dev, run_averages, &c, TENSORS(&c.x, &c.moments.mean, &c.moments.variance));
    expect_near("x", c.x, want, 0, unit, 4 * F32_EPS);
    release_all();
}

int main(void) {
    static const int64_t shapes[][3] = {{1, 1, 1},  {1, 2, 5},   {3, 7, 33},
                                        {2, 9, 64}, {4, 64, 70}, {1, 1000, 130}};
    for (int d = 0; d < device_count(); d++) {
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
            check_on(device_at(d), shapes[i][0], shapes[i][1], shapes[i][2]);
        check_averages(device_at(d), 1, 3);
        check_averages(device_at(d), 50, 65);
    }
    return failures();
}
