#include "kernels/peer_ops.h"

#include "kernels/op_checks.h"

// ---- product keys -------------------------------------------------------------------------------

static void check_found(Tensor ids, Tensor weights, int64_t n) {
    int64_t R = ids.shape[0], k = ids.shape[1];
    CHECK_SHAPE_2D(ids, I32, R, k);
    CHECK_SHAPE_2D(weights, F32, R, k);
    CHECK(k >= 1 && k <= n && k <= PRODUCT_KEYS_TOP_K, "%lld experts of %lld keys", (long long)k,
          (long long)n);
    CHECK(n <= 1 << 15, "%lld keys", (long long)n);
}

void product_keys_forward(Device *dev, Tensor ids, Tensor weights, Tensor first, Tensor second) {
    int64_t n = first.shape[1];
    check_found(ids, weights, n);
    CHECK_SHAPE_2D(first, F32, ids.shape[0], n);
    CHECK_SHAPE_2D(second, F32, ids.shape[0], n);
    dev->backend->op.product_keys_forward(dev, ids, weights, first, second);
}

void product_keys_backward(Device *dev, Tensor dsums, Tensor first_keys, Tensor second_keys,
                           Tensor dweights, Tensor ids, Tensor weights, int64_t n) {
    int64_t R = ids.shape[0], k = ids.shape[1];
    check_found(ids, weights, n);
    CHECK_SHAPE_2D(dsums, F32, R, k);
    CHECK_SHAPE_2D(first_keys, I32, R, k);
    CHECK_SHAPE_2D(second_keys, I32, R, k);
    CHECK_SHAPE_2D(dweights, F32, R, k);
    dev->backend->op.product_keys_backward(dev, dsums, first_keys, second_keys, dweights, ids,
                                           weights, n);
}

void spread_sums(Device *dev, Tensor dscores, Tensor dsums, Tensor keys) {
    int64_t R = dscores.shape[0], k = dsums.shape[1];
    CHECK_SHAPE_2D(dscores, F32, R, dscores.shape[1]);
    CHECK_SHAPE_2D(dsums, F32, R, k);
    CHECK_SHAPE_2D(keys, I32, R, k);
    dev->backend->op.spread_sums(dev, dscores, dsums, keys);
}

// ---- batch normalization ------------------------------------------------------------------------

static void check_runs(Tensor x, Tensor moments) {
    int64_t N = x.shape[0], W = x.shape[1];
    CHECK_SHAPE_2D(x, F32, N, W);
    CHECK_SHAPE_2D(moments, F32, moments.shape[0], W);
    check_parts(moments.shape[0], N);
}

void column_moments(Device *dev, ColumnMoments moments, Tensor sums, int64_t column, Tensor x) {
    int64_t G = moments.mean.shape[0], W = x.shape[1];
    check_runs(x, moments.mean);
    CHECK_SHAPE_2D(moments.variance, F32, G, W);
    CHECK_SHAPE_2D(sums, F64, G, sums.shape[1]);
    CHECK(column >= 0 && column + 2 * W <= sums.shape[1], "%lld sums from column %lld of %lld",
          (long long)(2 * W), (long long)column, (long long)sums.shape[1]);
    CHECK(x.shape[0] > 0, "moments of no rows");
    dev->backend->op.column_moments(dev, moments, sums, column, x);
}

void normalize_columns(Device *dev, Tensor out, Tensor x, ColumnMoments moments) {
    check_runs(x, moments.mean);
    CHECK_SHAPE_2D(moments.variance, F32, moments.mean.shape[0], x.shape[1]);
    CHECK_SHAPE_2D(out, F32, x.shape[0], x.shape[1]);
    dev->backend->op.normalize_columns(dev, out, x, moments);
}

void normalize_columns_backward(Device *dev, Tensor dx, Tensor dout, Tensor out, Tensor variance) {
    check_runs(out, variance);
    CHECK_SHAPE_2D(dout, F32, out.shape[0], out.shape[1]);
    CHECK_SHAPE_2D(dx, F32, out.shape[0], out.shape[1]);
    dev->backend->op.normalize_columns_backward(dev, dx, dout, out, variance);
}

// ---- rows by number -----------------------------------------------------------------------------

static void check_coefficients(NamedRows rows, int64_t M, int64_t K) {
    CHECK_SHAPE_2D(rows.coefficients, F32, M, rows.coefficients.shape[1]);
    CHECK(rows.first_column >= 0 && rows.first_column + K <= rows.coefficients.shape[1],
          "%lld coefficients from column %lld of %lld", (long long)K, (long long)rows.first_column,
          (long long)rows.coefficients.shape[1]);
}

void named_products(Device *dev, NamedRows out, Tensor x, Tensor ids) {
    int64_t M = x.shape[0], D = x.shape[1];
    CHECK_SHAPE_2D(x, storage(x), M, D);
    CHECK_SHAPE_2D(out.table, x.dtype, out.table.shape[0], D);
    CHECK_SHAPE_2D(ids, I32, M, ids.shape[1]);
    check_coefficients(out, M, ids.shape[1]);
    dev->backend->op.named_products(dev, out, x, ids);
}

void named_sums(Device *dev, Tensor out, NamedTables tables, Tensor ids, int64_t parts) {
    const NamedRows *rows = tables.rows;
    int64_t M = out.shape[0], D = out.shape[1], E = rows[0].table.shape[0];
    CHECK_SHAPE_2D(out, F32, M, D);
    CHECK_SHAPE_2D(ids, I32, M, ids.shape[1]);
    CHECK(tables.count >= 1 && tables.count <= NAMED_TABLES, "%lld tables",
          (long long)tables.count);
    for (int64_t t = 0; t < tables.count; t++) {
        CHECK_SHAPE_2D(rows[t].table, storage(rows[0].table), E, D);
        CHECK(rows[t].first == rows[0].first, "tables of different numbers");
        check_coefficients(rows[t], M, ids.shape[1]);
    }
    check_tree(parts);
    CHECK(parts <= NAMED_PARTS, "%lld parts of numbers", (long long)parts);
    check_parts(parts, E);
    dev->backend->op.named_sums(dev, out, tables, ids, parts);
}

static void check_list(Tensor at, Tensor listed, int64_t places, int64_t E) {
    CHECK(at.rank == 1 && at.dtype == I32 && at.shape[0] >= places, "a list of %lld places in %lld",
          (long long)places, (long long)at.shape[0]);
    CHECK(places < INT32_MAX, "%lld places", (long long)places);
    CHECK_SHAPE_1D(listed, I32, E + 1);
}

void list_names(Device *dev, Tensor at, Tensor listed, Tensor ids, int64_t first) {
    CHECK_SHAPE_2D(ids, I32, ids.shape[0], ids.shape[1]);
    check_list(at, listed, tensor_elements(ids), listed.shape[0] - 1);
    dev->backend->op.list_names(dev, at, listed, ids, first);
}

void named_gradient(Device *dev, Tensor dtable, Tensor marks, NamedRows rows, Tensor x, Tensor at,
                    Tensor listed, int64_t K, int64_t parts) {
    int64_t M = x.shape[0], D = x.shape[1];
    CHECK_SHAPE_2D(x, storage(x), M, D);
    CHECK_SHAPE_2D(dtable, F32, dtable.shape[0], D);
    if (marks.data) CHECK_SHAPE_1D(marks, I32, dtable.shape[0]);
    check_coefficients(rows, M, K);
    check_list(at, listed, M * K, dtable.shape[0]);
    check_parts(parts, M);
    check_tree(parts);
    dev->backend->op.named_gradient(dev, dtable, marks, rows, x, at, listed, K, parts);
}

void multiply_pairs(Device *dev, Tensor out, Tensor a, Tensor b) {
    int64_t n = tensor_elements(out);
    CHECK_SHAPE_1D(tensor_reshape_1d(out, n), F32, n);
    CHECK_SHAPE_1D(tensor_reshape_1d(a, n), F32, n);
    CHECK_SHAPE_1D(tensor_reshape_1d(b, n), F32, n);
    dev->backend->op.multiply_pairs(dev, out, a, b);
}
