// The checked front of every op (kernels.h), but for those of attention_ops.c, routing_ops.c and
// optimizer_ops.c.
#include "kernels/kernels.h"

#include "kernels/op_checks.h"

// Each front has the parameters of its row, or this does not compile.
#define OP(name, ...) void name(Device *dev, __VA_ARGS__);
OPS(OP)
#undef OP

// ---- matrices -----------------------------------------------------------------------------------

// What a product writes: f32, or the storage type of what it reads.
static DType result_type(Tensor result, DType T) {
    return result.dtype == F32 ? F32 : T;
}

// Segments of a matrix with M rows.
static void check_segments(Segments rows, int64_t M) {
    CHECK(rows.groups >= 0 && rows.parts >= 1, "%lld groups of %lld parts", (long long)rows.groups,
          (long long)rows.parts);
    if (rows.device_offsets.data)
        CHECK_SHAPE_1D(rows.device_offsets, I64, rows.groups * rows.parts + 1);
    int64_t end = rows.offsets[rows.groups * rows.parts];
    CHECK(rows.offsets[0] >= 0 && end <= M, "segments end at row %lld of %lld", (long long)end,
          (long long)M);
}

// w (G, N, K); a dense layer may pass its (N, K) matrix as it is.
static void check_matmul(Tensor y, DType y_type, Tensor x, DType x_type, Tensor w, DType w_type,
                         Segments rows) {
    int64_t N = y.shape[1], K = x.shape[1], M = x.shape[0];
    check_segments(rows, M);
    CHECK_SHAPE_2D(x, x_type, M, K);
    CHECK_SHAPE_2D(y, y_type, M, N);
    if (w.rank == 2 && rows.groups == 1) {
        CHECK_SHAPE_2D(w, w_type, N, K);
    } else {
        CHECK_SHAPE_3D(w, w_type, rows.groups, N, K);
    }
}

void matmul_forward(Device *dev, Tensor y, Tensor x, Tensor w, Segments rows) {
    DType T = storage(w);
    check_matmul(y, result_type(y, T), x, T, w, T, rows);
    dev->backend->op.matmul_forward(dev, y, x, w, rows);
}

void matmul_quantized(Device *dev, Tensor y, Tensor x, QuantizedMatrix w, Segments rows) {
    DType type = w.values.dtype;
    CHECK(type == BF16 || type == F16 || type == I8, "weights of %s", dtype_name(type));
    check_matmul(y, F32, x, F32, w.values, type, rows);
    if (type == I8) CHECK_SHAPE_1D(w.scales, F32, rows.groups * y.shape[1]);
    dev->backend->op.matmul_quantized(dev, y, x, w, rows);
}

void matmul_backward_input(Device *dev, Tensor dx, Tensor dy, Tensor w, Segments rows) {
    DType T = storage(w);
    check_matmul(dy, T, dx, result_type(dx, T), w, T, rows);
    dev->backend->op.matmul_backward_input(dev, dx, dy, w, rows);
}

void matmul_backward_weight(Device *dev, Tensor dw, Tensor dy, Tensor x, Segments rows) {
    DType T = storage(x);
    check_matmul(dy, T, x, T, dw, F32, rows);
    check_tree(rows.parts);
    dev->backend->op.matmul_backward_weight(dev, dw, dy, x, rows);
}

void bias_forward(Device *dev, Tensor y, Tensor bias, Segments rows) {
    int64_t M = y.shape[0], N = y.shape[1];
    check_segments(rows, M);
    CHECK_SHAPE_2D(y, storage(y), M, N);
    CHECK_SHAPE_2D(bias, F32, rows.groups, N);
    dev->backend->op.bias_forward(dev, y, bias, rows);
}

void bias_backward(Device *dev, Tensor dbias, Tensor dy, Segments rows) {
    int64_t M = dy.shape[0], N = dy.shape[1];
    check_segments(rows, M);
    check_tree(rows.parts);
    CHECK_SHAPE_2D(dy, storage(dy), M, N);
    CHECK_SHAPE_2D(dbias, F32, rows.groups, N);
    dev->backend->op.bias_backward(dev, dbias, dy, rows);
}

// ---- embedding ----------------------------------------------------------------------------------

void embedding_forward(Device *dev, Tensor out, Tensor tokens, Tensor weight) {
    CHECK_SHAPE_1D(tokens, I32, out.shape[0]);
    CHECK_SHAPE_2D(out, F32, tokens.shape[0], weight.shape[1]);
    CHECK_SHAPE_2D(weight, F32, weight.shape[0], out.shape[1]);
    dev->backend->op.embedding_forward(dev, out, tokens, weight);
}

void embedding_backward(Device *dev, Tensor dweight, Tensor dout, Tensor tokens, int64_t parts,
                        Tensor order) {
    int64_t N = dout.shape[0], V = dweight.shape[0];
    CHECK_SHAPE_2D(dweight, F32, V, dout.shape[1]);
    CHECK_SHAPE_2D(dout, F32, N, dweight.shape[1]);
    CHECK_SHAPE_1D(tokens, I32, N);
    CHECK_SHAPE_1D(order, I32, N + V + 1);
    check_parts(parts, N);
    check_tree(parts);
    dev->backend->op.embedding_backward(dev, dweight, dout, tokens, parts, order);
}

// ---- norms --------------------------------------------------------------------------------------

static void check_norm_params(NormParams params, NormRule rule, int64_t D) {
    CHECK_SHAPE_1D(params.weight, F32, D);
    if (norm_has_bias(rule.kind)) CHECK_SHAPE_1D(params.bias, F32, D);
}

void normalize_forward(Device *dev, Tensor out, Tensor statistics, Tensor sum, Tensor x,
                       Tensor branch, NormParams params, NormRule rule) {
    int64_t N = x.shape[0], D = x.shape[1];
    DType T = storage(out);
    CHECK_SHAPE_2D(x, F32, N, D);
    CHECK_SHAPE_2D(out, T, N, D);
    CHECK_SHAPE_2D(statistics, F32, norm_statistics(rule.kind), N);
    check_norm_params(params, rule, D);
    if (branch.data) {
        CHECK_SHAPE_2D(branch, T, N, D);
        CHECK_SHAPE_2D(sum, F32, N, D);
    }
    dev->backend->op.normalize_forward(dev, out, statistics, sum, x, branch, params, rule);
}

void normalize_backward(Device *dev, Tensor dx, NormParams dparams, Tensor dout, Tensor x,
                        Tensor statistics, NormParams params, NormRule rule, Tensor partial) {
    int64_t N = x.shape[0], D = x.shape[1], parts = partial.shape[0];
    CHECK_SHAPE_2D(x, F32, N, D);
    CHECK_SHAPE_2D(dx, F32, N, D);
    CHECK_SHAPE_2D(dout, storage(dout), N, D);
    CHECK_SHAPE_2D(statistics, F32, norm_statistics(rule.kind), N);
    check_norm_params(params, rule, D);
    check_norm_params(dparams, rule, D);
    CHECK_SHAPE_2D(partial, F32, parts, norm_has_bias(rule.kind) ? 2 * D : D);
    check_parts(parts, N);
    check_tree(parts);
    dev->backend->op.normalize_backward(dev, dx, dparams, dout, x, statistics, params, rule,
                                        partial);
}

// ---- feed-forward -------------------------------------------------------------------------------

void activation_forward(Device *dev, Tensor out, Tensor in, Activation kind) {
    DType T = storage(in);
    CHECK_SHAPE_2D(out, T, in.shape[0], out.shape[1]);
    CHECK_SHAPE_2D(in, T, out.shape[0], activation_input_width(kind, out.shape[1]));
    dev->backend->op.activation_forward(dev, out, in, kind);
}

void activation_backward(Device *dev, Tensor din, Tensor dout, Tensor in, Activation kind) {
    DType T = storage(in);
    CHECK_SHAPE_2D(dout, T, in.shape[0], dout.shape[1]);
    CHECK_SHAPE_2D(in, T, dout.shape[0], activation_input_width(kind, dout.shape[1]));
    CHECK_SHAPE_2D(din, T, in.shape[0], in.shape[1]);
    dev->backend->op.activation_backward(dev, din, dout, in, kind);
}

void gated_add_forward(Device *dev, Tensor out, Tensor y, Tensor logits) {
    int64_t N = y.shape[0], D = y.shape[1];
    CHECK_SHAPE_2D(y, storage(y), N, D);
    CHECK_SHAPE_2D(out, y.dtype, N, D);
    CHECK_SHAPE_2D(logits, F32, N, 1);
    dev->backend->op.gated_add_forward(dev, out, y, logits);
}

void gated_add_backward(Device *dev, Tensor dy, Tensor dlogits, Tensor dout, Tensor y,
                        Tensor logits) {
    int64_t N = y.shape[0], D = y.shape[1];
    CHECK_SHAPE_2D(y, storage(y), N, D);
    CHECK_SHAPE_2D(dy, y.dtype, N, D);
    CHECK_SHAPE_2D(dout, y.dtype, N, D);
    CHECK_SHAPE_2D(logits, F32, N, 1);
    CHECK_SHAPE_2D(dlogits, F32, N, 1);
    dev->backend->op.gated_add_backward(dev, dy, dlogits, dout, y, logits);
}

void mix_forward(Device *dev, Tensor out, Tensor a, Tensor b, Tensor logits) {
    int64_t N = out.shape[0], D = out.shape[1];
    CHECK_SHAPE_2D(out, storage(out), N, D);
    CHECK_SHAPE_2D(a, out.dtype, N, D);
    CHECK_SHAPE_2D(b, out.dtype, N, D);
    CHECK_SHAPE_2D(logits, F32, N, 2);
    dev->backend->op.mix_forward(dev, out, a, b, logits);
}

void mix_backward(Device *dev, Tensor da, Tensor db, Tensor dlogits, Tensor dout, Tensor a,
                  Tensor b, Tensor logits) {
    int64_t N = dout.shape[0], D = dout.shape[1];
    CHECK_SHAPE_2D(dout, storage(dout), N, D);
    CHECK_SHAPE_2D(da, dout.dtype, N, D);
    CHECK_SHAPE_2D(db, dout.dtype, N, D);
    CHECK_SHAPE_2D(a, dout.dtype, N, D);
    CHECK_SHAPE_2D(b, dout.dtype, N, D);
    CHECK_SHAPE_2D(logits, F32, N, 2);
    CHECK_SHAPE_2D(dlogits, F32, N, 2);
    dev->backend->op.mix_backward(dev, da, db, dlogits, dout, a, b, logits);
}

// ---- dropout ------------------------------------------------------------------------------------

void dropout(Device *dev, Tensor out, Tensor x, Dropout rule) {
    int64_t N = x.shape[0], D = x.shape[1];
    CHECK_SHAPE_2D(x, storage(x), N, D);
    CHECK_SHAPE_2D(out, storage(out), N, D);
    CHECK(rule.rate >= 0 && rule.rate < 1, "a dropout of %g", rule.rate);
    if (rule.rows.data) CHECK_SHAPE_1D(rule.rows, I64, N);
    dev->backend->op.dropout(dev, out, x, rule);
}

// ---- loss ---------------------------------------------------------------------------------------

void cross_entropy(Device *dev, Tensor losses, Tensor logits, Tensor targets, float scale) {
    int64_t N = logits.shape[0], V = logits.shape[1];
    CHECK_SHAPE_2D(logits, storage(logits), N, V);
    CHECK_SHAPE_1D(losses, F32, N);
    CHECK_SHAPE_1D(targets, I32, N);
    dev->backend->op.cross_entropy(dev, losses, logits, targets, scale);
}

void count_right_guesses(Device *dev, Tensor counts, Tensor logits, Tensor targets) {
    int64_t N = logits.shape[0], V = logits.shape[1];
    CHECK_SHAPE_2D(logits, storage(logits), N, V);
    CHECK_SHAPE_1D(counts, I64, 2);
    CHECK_SHAPE_1D(targets, I32, N);
    dev->backend->op.count_right_guesses(dev, counts, logits, targets);
}

// ---- elementwise and sums -----------------------------------------------------------------------

static void check_elements(const char *what, Tensor a, Tensor b) {
    CHECK(tensor_elements(a) == tensor_elements(b), "%s: %s x %lld and %s x %lld", what,
          dtype_name(a.dtype), (long long)tensor_elements(a), dtype_name(b.dtype),
          (long long)tensor_elements(b));
}

void fill_zero(Device *dev, Tensor x) {
    dev->backend->op.fill_zero(dev, x);
}

void copy(Device *dev, Tensor out, Tensor x) {
    check_elements("copy", out, x);
    CHECK(out.dtype == x.dtype, "copy of %s into %s", dtype_name(x.dtype), dtype_name(out.dtype));
    dev->backend->op.copy(dev, out, x);
}

void convert(Device *dev, Tensor out, Tensor x) {
    check_elements("convert", out, x);
    check_storage(out);
    check_storage(x);
    CHECK(out.dtype != x.dtype, "convert of %s into the same", dtype_name(x.dtype));
    dev->backend->op.convert(dev, out, x);
}

void add(Device *dev, Tensor out, Tensor a, Tensor b) {
    check_storage(out);
    check_storage(a);
    check_storage(b);
    check_elements("add", out, a);
    check_elements("add", out, b);
    dev->backend->op.add(dev, out, a, b);
}

void multiply_by(Device *dev, Tensor out, Tensor x, float factor) {
    check_storage(out);
    check_storage(x);
    check_elements("multiply_by", out, x);
    dev->backend->op.multiply_by(dev, out, x, factor);
}

void softcap_forward(Device *dev, Tensor out, Tensor x, float cap) {
    check_elements("softcap", out, x);
    CHECK(out.dtype == storage(x), "softcap of %s", dtype_name(x.dtype));
    CHECK(cap > 0, "a softcap of %g", (double)cap);
    dev->backend->op.softcap_forward(dev, out, x, cap);
}

void softcap_backward(Device *dev, Tensor dx, Tensor dout, Tensor out, float cap) {
    check_elements("softcap", dx, dout);
    check_elements("softcap", dx, out);
    CHECK(dx.dtype == storage(out) && dout.dtype == out.dtype, "softcap of %s",
          dtype_name(dout.dtype));
    CHECK(cap > 0, "a softcap of %g", (double)cap);
    dev->backend->op.softcap_backward(dev, dx, dout, out, cap);
}

// The columns that some blocks reach to.
static int64_t columns_end(int64_t first, int64_t stride, int64_t count, int64_t width) {
    CHECK(first >= 0 && stride >= 0, "columns from %lld, %lld apart", (long long)first,
          (long long)stride);
    return first + (count - 1) * stride + width;
}

void copy_columns(Device *dev, Tensor out, Tensor x, ColumnBlocks c) {
    if (c.terms == 0) c.terms = 1;
    int64_t N = out.shape[0], terms = (c.terms - 1) * c.term_stride;
    CHECK(c.blocks > 0 && c.width > 0 && c.terms > 0 && c.term_stride >= 0 &&
              (c.blocks == 1 || c.out_stride >= c.width),
          "%lld blocks of %lld columns, %lld apart", (long long)c.blocks, (long long)c.width,
          (long long)c.out_stride);
    CHECK_SHAPE_2D(out, storage(out), N, out.shape[1]);
    CHECK_SHAPE_2D(x, storage(x), N, x.shape[1]);
    CHECK(columns_end(c.out_first, c.out_stride, c.blocks, c.width) <= out.shape[1] &&
              columns_end(c.x_first, c.x_stride, c.blocks, c.width) + terms <= x.shape[1],
          "%lld blocks of %lld columns reach over the rows' %lld and %lld", (long long)c.blocks,
          (long long)c.width, (long long)out.shape[1], (long long)x.shape[1]);
    dev->backend->op.copy_columns(dev, out, x, c);
}

void segment_sum(Device *dev, Tensor sums, int64_t column, Tensor x, double divisor) {
    CHECK_SHAPE_2D(sums, F64, sums.shape[0], sums.shape[1]);
    CHECK_SHAPE_1D(x, F32, x.shape[0]);
    CHECK(column >= 0 && column < sums.shape[1], "column %lld of %lld", (long long)column,
          (long long)sums.shape[1]);
    check_parts(sums.shape[0], x.shape[0]);
    dev->backend->op.segment_sum(dev, sums, column, x, divisor);
}

void segment_max(Device *dev, Tensor maxima, int64_t column, Tensor x) {
    int64_t parts = maxima.shape[0], N = x.shape[0], H = x.shape[1];
    CHECK_SHAPE_2D(maxima, F64, parts, maxima.shape[1]);
    CHECK_SHAPE_2D(x, F32, N, H);
    CHECK(column >= 0 && column + H <= maxima.shape[1], "columns %lld … of %lld", (long long)column,
          (long long)maxima.shape[1]);
    check_parts(parts, N);
    CHECK(N > 0, "the largest of no rows");
    dev->backend->op.segment_max(dev, maxima, column, x);
}

void sum_of_squares(Device *dev, Tensor sums, Tensor x, Tensor offsets, Tensor marks) {
    if (marks.data) CHECK_SHAPE_1D(marks, I32, sums.shape[0]);
    CHECK_SHAPE_1D(sums, F64, offsets.shape[0] - 1);
    CHECK_SHAPE_1D(offsets, I64, sums.shape[0] + 1);
    CHECK_SHAPE_1D(x, F32, x.shape[0]);
    dev->backend->op.sum_of_squares(dev, sums, x, offsets, marks);
}

void sum_of_row_squares(Device *dev, Tensor sums, Tensor x, Tensor marks) {
    CHECK_SHAPE_1D(sums, F64, sums.shape[0]);
    CHECK_SHAPE_2D(x, F32, x.shape[0], x.shape[1]);
    if (marks.data) CHECK_SHAPE_1D(marks, I32, x.shape[0]);
    check_parts(sums.shape[0], x.shape[0]);
    dev->backend->op.sum_of_row_squares(dev, sums, x, marks);
}

void checksums(Device *dev, Tensor sums, Tensor x, CheckedRuns runs) {
    CHECK_SHAPE_2D(sums, I64, runs.count, 2);
    CHECK(runs.except >= -1 && runs.except < runs.count, "run %lld of %lld is left out",
          (long long)runs.except, (long long)runs.count);
    if (runs.index.data) CHECK_SHAPE_1D(runs.index, I32, runs.index.shape[0]);
    int64_t next = 0, all = runs.index.data ? runs.index.shape[0] : x.shape[0];
    for (int64_t s = 0; s < runs.count; s++) {
        int64_t first = runs.first ? runs.first[s] : next, rows = runs.rows[s];
        CHECK(first >= 0 && rows >= 0 && first <= all && rows <= all - first,
              "rows %lld to %lld of %lld", (long long)first, (long long)(first + rows),
              (long long)all);
        next = first + rows;
    }
    dev->backend->op.checksums(dev, sums, x, runs);
}

uint64_t checksums_hash(const int64_t sums[2]) {
    return (uint64_t)sums[0] * 0x9e3779b97f4a7c15u + (uint64_t)sums[1];
}
