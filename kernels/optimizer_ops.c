#include "kernels/optimizer_ops.h"

#include "kernels/op_checks.h"

// What every update takes.
static void check_update(Tensor w, Tensor copy, Tensor g, Tensor m, Tensor groups) {
    int64_t n = w.shape[0];
    CHECK(n % 16 == 0, "an update of %lld elements, expected a multiple of 16", (long long)n);
    CHECK_SHAPE_1D(w, F32, n);
    CHECK_SHAPE_1D(g, F32, n);
    CHECK_SHAPE_1D(m, F32, n);
    CHECK_SHAPE_1D(groups, U8, n / 16);
    if (copy.data) CHECK_SHAPE_1D(copy, BF16, n);
}

void adamw_update(Device *dev, Tensor w, Tensor copy, Tensor g, Tensor m, Tensor v, Tensor groups,
                  AdamW rule) {
    check_update(w, copy, g, m, groups);
    CHECK_SHAPE_1D(v, F32, w.shape[0]);
    dev->backend->op.adamw_update(dev, w, copy, g, m, v, groups, rule);
}

void adamw_rows(Device *dev, Tensor w, Tensor copy, Tensor g, Tensor m, Tensor v, LaggingRows rows,
                AdamW rule) {
    int64_t R = w.shape[0], D = w.shape[1];
    CHECK_SHAPE_2D(w, F32, R, D);
    if (copy.data) CHECK_SHAPE_2D(copy, BF16, R, D);
    if (g.data) CHECK_SHAPE_2D(g, F32, R, D);
    CHECK_SHAPE_2D(m, F32, R, D);
    CHECK_SHAPE_2D(v, F32, R, D);
    CHECK_SHAPE_1D(rows.updates, I32, R);
    CHECK_SHAPE_2D(rows.history, F32, rows.history.shape[0], UPDATE_HISTORY);
    CHECK(rows.count <= rows.history.shape[0] && (rows.count > 0 || !g.data),
          "%lld updates of a history of %lld", (long long)rows.count,
          (long long)rows.history.shape[0]);
    if (rows.marks.data) CHECK_SHAPE_1D(rows.marks, I32, R);
    if (rows.listed.data) CHECK_SHAPE_1D(rows.listed, I32, R + 1);
    dev->backend->op.adamw_rows(dev, w, copy, g, m, v, rows, rule);
}

void sgd_update(Device *dev, Tensor w, Tensor copy, Tensor g, Tensor m, Tensor groups, Sgd rule) {
    check_update(w, copy, g, m, groups);
    dev->backend->op.sgd_update(dev, w, copy, g, m, groups, rule);
}

void lion_update(Device *dev, Tensor w, Tensor copy, Tensor g, Tensor m, Tensor groups, Lion rule) {
    check_update(w, copy, g, m, groups);
    dev->backend->op.lion_update(dev, w, copy, g, m, groups, rule);
}

void momentum_direction(Device *dev, Tensor u, Tensor g, Tensor m, Momentum rule) {
    int64_t n = u.shape[0];
    CHECK(n % 16 == 0, "momentum of %lld elements, expected a multiple of 16", (long long)n);
    CHECK_SHAPE_1D(u, F32, n);
    CHECK_SHAPE_1D(g, F32, n);
    CHECK_SHAPE_1D(m, F32, n);
    dev->backend->op.momentum_direction(dev, u, g, m, rule);
}

void normalize_segments(Device *dev, Tensor x, Tensor squares, Tensor offsets, float eps) {
    CHECK_SHAPE_1D(squares, F64, offsets.shape[0] - 1);
    CHECK_SHAPE_1D(offsets, I64, squares.shape[0] + 1);
    CHECK_SHAPE_1D(x, F32, x.shape[0]);
    dev->backend->op.normalize_segments(dev, x, squares, offsets, eps);
}

void matrix_polynomial(Device *dev, Tensor square, Tensor a, MatrixPolynomial p) {
    CHECK_SHAPE_3D(square, F32, a.shape[0], a.shape[1], a.shape[1]);
    CHECK_SHAPE_3D(a, F32, square.shape[0], square.shape[1], square.shape[1]);
    dev->backend->op.matrix_polynomial(dev, square, a, p);
}

void decayed_step(Device *dev, Tensor w, Tensor copy, Tensor step, Tensor groups,
                  DecayedStep rule) {
    check_update(w, copy, step, step, groups);
    dev->backend->op.decayed_step(dev, w, copy, step, groups, rule);
}

void moving_average(Device *dev, Tensor average, Tensor w, float decay) {
    int64_t n = average.shape[0];
    CHECK(n % 16 == 0, "an average of %lld elements, expected a multiple of 16", (long long)n);
    CHECK_SHAPE_1D(average, F32, n);
    CHECK_SHAPE_1D(w, F32, n);
    dev->backend->op.moving_average(dev, average, w, decay);
}

void scale_rows(Device *dev, Tensor w, Tensor factors) {
    CHECK_SHAPE_2D(w, F32, factors.shape[0], w.shape[1]);
    CHECK_SHAPE_1D(factors, F32, w.shape[0]);
    dev->backend->op.scale_rows(dev, w, factors);
}
