// The checked front of every op (kernels.h). Long because the checks of one op stand beside those
// of the next, and shapes that ops share are checked by the same helpers.
#include "kernels/kernels.h"

#include "kernels/backend.h"
#include "kernels/integers.h"

// Each front has the parameters of its row, or this does not compile.
#define OP(name, ...) void name(Device *dev, __VA_ARGS__);
OPS(OP)
#undef OP

static void check_storage(Tensor x) {
    CHECK(x.dtype == F32 || x.dtype == BF16, "a %s tensor, expected f32 or bf16",
          dtype_name(x.dtype));
}

// The storage type T of an op: that of x.
static DType storage(Tensor x) {
    check_storage(x);
    return x.dtype;
}

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

static void check_parts(int64_t parts, int64_t rows) {
    CHECK(parts > 0 && rows % parts == 0, "%lld rows in %lld equal parts", (long long)rows,
          (long long)parts);
}

static void check_tree(int64_t parts) {
    CHECK(is_power_of_two(parts), "%lld parts, expected a power of two", (long long)parts);
}

void matmul_forward(Device *dev, Tensor y, Tensor x, Tensor w, Segments rows) {
    DType T = storage(w);
    check_matmul(y, result_type(y, T), x, T, w, T, rows);
    dev->backend->op.matmul_forward(dev, y, x, w, rows);
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

// ---- attention ----------------------------------------------------------------------------------

int64_t attention_qkv_width(AttentionShape s) {
    return s.heads * s.d_head + attention_kv_width(s);
}

int64_t attention_kv_width(AttentionShape s) {
    return s.kv_heads * (s.d_head + s.d_value);
}

static void check_heads(AttentionShape s) {
    CHECK(s.kv_heads > 0 && s.heads % s.kv_heads == 0 && s.d_head > 0 && s.d_value > 0,
          "%lld query heads on %lld key/value heads", (long long)s.heads, (long long)s.kv_heads);
}

static void check_sequences(int64_t T, int64_t rows) {
    CHECK(T > 0 && rows % T == 0, "%lld rows in sequences of %lld", (long long)rows, (long long)T);
}

static void check_rule(AttentionRule rule) {
    check_heads(rule.shape);
    CHECK(rule.scale > 0.0f, "attention scores times %g, expected a positive number",
          (double)rule.scale);
    CHECK(rule.window >= 0, "a window of %lld keys", (long long)rule.window);
    if (rule.softmax == SOFTMAX_SINK) CHECK_SHAPE_1D(rule.sinks, F32, rule.shape.heads);
}

void rope(Device *dev, Tensor qkv, AttentionShape s, Tensor cosines, Tensor sines, int64_t T,
          int64_t first_position, bool inverse) {
    int64_t positions = cosines.shape[0];
    check_heads(s);
    check_sequences(T, qkv.shape[0]);
    CHECK(s.d_head % 2 == 0, "rope wants an even d_head, not %lld", (long long)s.d_head);
    CHECK(first_position >= 0 && first_position + T <= positions,
          "rope from %lld over %lld of %lld", (long long)first_position, (long long)T,
          (long long)positions);
    CHECK_SHAPE_2D(qkv, storage(qkv), qkv.shape[0], attention_qkv_width(s));
    CHECK_SHAPE_2D(cosines, F32, positions, s.d_head / 2);
    CHECK_SHAPE_2D(sines, F32, positions, s.d_head / 2);
    dev->backend->op.rope(dev, qkv, s, cosines, sines, T, first_position, inverse);
}

void attention_forward(Device *dev, Tensor out, Tensor lse, Tensor qkv, AttentionRule rule) {
    AttentionShape s = rule.shape;
    int64_t N = qkv.shape[0];
    DType stored = storage(qkv);
    check_rule(rule);
    check_sequences(rule.T, N);
    CHECK_SHAPE_2D(qkv, stored, N, attention_qkv_width(s));
    CHECK_SHAPE_2D(out, stored, N, s.heads * s.d_value);
    CHECK_SHAPE_2D(lse, F32, N, s.heads);
    dev->backend->op.attention_forward(dev, out, lse, qkv, rule);
}

void attention_backward(Device *dev, Tensor dqkv, Tensor dout, Tensor qkv, Tensor out, Tensor lse,
                        AttentionRule rule) {
    AttentionShape s = rule.shape;
    int64_t N = qkv.shape[0];
    DType stored = storage(qkv);
    check_rule(rule);
    check_sequences(rule.T, N);
    CHECK_SHAPE_2D(qkv, stored, N, attention_qkv_width(s));
    CHECK_SHAPE_2D(dqkv, stored, N, attention_qkv_width(s));
    CHECK_SHAPE_2D(out, stored, N, s.heads * s.d_value);
    CHECK_SHAPE_2D(dout, stored, N, s.heads * s.d_value);
    CHECK_SHAPE_2D(lse, F32, N, s.heads);
    dev->backend->op.attention_backward(dev, dqkv, dout, qkv, out, lse, rule);
}

void attention_sink_backward(Device *dev, Tensor dsinks, Tensor dout, Tensor out, Tensor lse,
                             Tensor sinks) {
    int64_t N = lse.shape[0], H = lse.shape[1];
    DType stored = storage(out);
    CHECK(H > 0 && out.shape[1] % H == 0, "%lld heads in rows of %lld", (long long)H,
          (long long)out.shape[1]);
    CHECK_SHAPE_2D(dout, stored, N, out.shape[1]);
    CHECK_SHAPE_2D(out, stored, N, out.shape[1]);
    CHECK_SHAPE_2D(lse, F32, N, H);
    CHECK_SHAPE_2D(dsinks, F32, N, H);
    CHECK_SHAPE_1D(sinks, F32, H);
    dev->backend->op.attention_sink_backward(dev, dsinks, dout, out, lse, sinks);
}

void attention_decode(Device *dev, Tensor out, Tensor qkv, Tensor cache, AttentionRule rule,
                      int64_t position) {
    AttentionShape s = rule.shape;
    check_rule(rule);
    DType T = storage(qkv);
    CHECK_SHAPE_2D(out, T, 1, s.heads * s.d_value);
    CHECK_SHAPE_2D(qkv, T, 1, attention_qkv_width(s));
    CHECK_SHAPE_2D(cache, T, cache.shape[0], attention_kv_width(s));
    CHECK(position >= 0 && position < cache.shape[0], "position %lld in a cache of %lld rows",
          (long long)position, (long long)cache.shape[0]);
    dev->backend->op.attention_decode(dev, out, qkv, cache, rule, position);
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

// ---- router -------------------------------------------------------------------------------------

static void check_choices(Tensor ids, Tensor weights, int64_t N, int64_t K) {
    CHECK_SHAPE_2D(ids, I32, N, K);
    CHECK_SHAPE_2D(weights, F32, N, K);
}

static void check_routing(Routing routing, Tensor logits) {
    int64_t N = logits.shape[0], E = logits.shape[1], K = routing.ids.shape[1];
    CHECK_SHAPE_2D(logits, F32, N, E);
    check_choices(routing.ids, routing.weights, N, K);
    CHECK(K >= 1 && K <= E, "%lld experts a token of %lld", (long long)K, (long long)E);
    CHECK_SHAPE_1D(routing.lse, F32, N);
}

void router_forward(Device *dev, Routing routing, RouterSums sums, Tensor logits, Tensor bias,
                    RouterRule rule) {
    int64_t parts = sums.prob_sum.shape[0];
    check_routing(routing, logits);
    CHECK_SHAPE_2D(sums.prob_sum, F64, parts, logits.shape[1]);
    CHECK_SHAPE_1D(sums.entropy_sum, F64, parts);
    CHECK_SHAPE_1D(sums.lse2_sum, F64, parts);
    check_parts(parts, logits.shape[0]);
    if (bias.data) CHECK_SHAPE_1D(bias, F32, logits.shape[1]);
    dev->backend->op.router_forward(dev, routing, sums, logits, bias, rule);
}

void router_backward(Device *dev, Tensor dlogits, Tensor dweights, Routing routing, Tensor logits,
                     RouterRule rule, Tensor balance, float z_scale) {
    int64_t N = logits.shape[0], E = logits.shape[1], parts = balance.shape[0];
    check_routing(routing, logits);
    CHECK_SHAPE_2D(dlogits, F32, N, E);
    CHECK_SHAPE_2D(dweights, F32, N, routing.ids.shape[1]);
    CHECK_SHAPE_2D(balance, F32, parts, E);
    check_parts(parts, N);
    dev->backend->op.router_backward(dev, dlogits, dweights, routing, logits, rule, balance,
                                     z_scale);
}

void capacity_assign(Device *dev, Tensor kept, Tensor tokens_per_expert, Tensor dropped, Tensor ids,
                     Tensor weights, CapacityRule rule, Tensor order) {
    int64_t N = ids.shape[0], K = ids.shape[1], groups = tokens_per_expert.shape[0],
            E = tokens_per_expert.shape[1];
    check_choices(ids, weights, N, K);
    CHECK_SHAPE_2D(kept, U8, N, K);
    CHECK_SHAPE_2D(tokens_per_expert, I32, groups, E);
    CHECK_SHAPE_2D(dropped, I32, groups, E);
    CHECK_SHAPE_1D(order, I32, N * K + E + 1);
    check_parts(groups, N);
    dev->backend->op.capacity_assign(dev, kept, tokens_per_expert, dropped, ids, weights, rule,
                                     order);
}

void expert_load(Device *dev, RouterSums sums, Tensor ids, Tensor weights, Tensor kept) {
    int64_t N = ids.shape[0], K = ids.shape[1];
    int64_t parts = sums.tokens_per_expert.shape[0], E = sums.tokens_per_expert.shape[1];
    check_parts(parts, N);
    CHECK_SHAPE_2D(sums.tokens_per_expert, I32, parts, E);
    CHECK_SHAPE_2D(sums.dropped, I32, parts, E);
    CHECK_SHAPE_2D(sums.weight_mass, F64, parts, E);
    check_choices(ids, weights, N, K);
    CHECK_SHAPE_2D(kept, U8, N, K);
    dev->backend->op.expert_load(dev, sums, ids, weights, kept);
}

void router_totals(Device *dev, RouterTotals to, Tensor balance, RouterSums sums,
                   Tensor batch_tokens_per_expert, BalanceRule rule) {
    int64_t parts = sums.tokens_per_expert.shape[0], E = sums.tokens_per_expert.shape[1];
    int64_t rows = to.totals.shape[0], columns = to.totals.shape[1];
    CHECK_SHAPE_2D(sums.tokens_per_expert, I32, parts, E);
    CHECK_SHAPE_2D(sums.dropped, I32, parts, E);
    CHECK_SHAPE_2D(sums.prob_sum, F64, parts, E);
    CHECK_SHAPE_2D(sums.weight_mass, F64, parts, E);
    CHECK_SHAPE_1D(sums.entropy_sum, F64, parts);
    CHECK_SHAPE_1D(sums.lse2_sum, F64, parts);
    CHECK_SHAPE_2D(balance, F32, parts, E);
    CHECK_SHAPE_2D(to.totals, F64, rows, columns);
    CHECK_SHAPE_1D(to.routed, I64, E);
    CHECK_SHAPE_1D(to.dropped, I64, E);
    if (batch_tokens_per_expert.data) CHECK_SHAPE_1D(batch_tokens_per_expert, I64, E);
    CHECK(rows > 0 && parts % rows == 0, "%lld parts do not divide into %lld rows of totals",
          (long long)parts, (long long)rows);
    CHECK(to.balance >= 0 && to.balance < columns && to.z >= 0 && to.z < columns &&
              to.entropy >= 0 && to.entropy < columns && to.weight_mass >= 0 &&
              to.weight_mass + E <= columns,
          "columns %lld, %lld, %lld, and %lld experts from %lld on, do not lie within %lld",
          (long long)to.balance, (long long)to.z, (long long)to.entropy, (long long)E,
          (long long)to.weight_mass, (long long)columns);
    dev->backend->op.router_totals(dev, to, balance, sums, batch_tokens_per_expert, rule);
}

void sum_columns(Device *dev, Tensor out, Tensor x) {
    CHECK_SHAPE_1D(out, I64, x.shape[1]);
    CHECK_SHAPE_2D(x, I32, x.shape[0], out.shape[0]);
    dev->backend->op.sum_columns(dev, out, x);
}

// ---- permutation --------------------------------------------------------------------------------

void permutation_plan(Device *dev, Tensor slot_row, Tensor row_choice, Tensor counts, Tensor ids,
                      Tensor kept, int64_t parts, int64_t padded_rows) {
    int64_t N = ids.shape[0], K = ids.shape[1];
    int64_t rows = padded_rows < 0 ? N * K : counts.shape[0] * parts * padded_rows;
    CHECK_SHAPE_2D(ids, I32, N, K);
    CHECK_SHAPE_2D(kept, U8, N, K);
    CHECK_SHAPE_2D(slot_row, I32, N, K);
    CHECK_SHAPE_1D(row_choice, I32, rows);
    CHECK_SHAPE_2D(counts, I32, counts.shape[0], parts);
    check_parts(parts, N);
    dev->backend->op.permutation_plan(dev, slot_row, row_choice, counts, ids, kept, parts,
                                      padded_rows);
}

void exchange_plan(Device *dev, ExchangePlan plan, Tensor counts, Tensor all_counts,
                   int64_t parts) {
    int64_t ep = all_counts.shape[0], local = all_counts.shape[1], S = all_counts.shape[2];
    int64_t chunks = plan.send_rows.shape[0], max_rows = plan.to_expert.shape[0];
    CHECK_SHAPE_3D(all_counts, I32, ep, local, S);
    CHECK_SHAPE_2D(counts, I32, ep * local, S);
    CHECK_SHAPE_1D(plan.offsets, I64, local * parts + 1);
    CHECK_SHAPE_2D(plan.send_rows, I64, chunks, ep);
    CHECK_SHAPE_2D(plan.receive_rows, I64, chunks, ep);
    CHECK_SHAPE_1D(plan.to_expert, I32, max_rows);
    CHECK_SHAPE_1D(plan.to_received, I32, max_rows);
    CHECK(chunks > 0 && local % chunks == 0 && parts > 0 && ep * S % parts == 0,
          "%lld experts in %lld chunks, %lld shards in %lld parts", (long long)local,
          (long long)chunks, (long long)(ep * S), (long long)parts);
    dev->backend->op.exchange_plan(dev, plan, counts, all_counts, parts);
}

void gather_rows(Device *dev, Tensor out, Tensor x, Tensor index, int64_t rows, int64_t divisor) {
    DType T = storage(x);
    CHECK_SHAPE_2D(out, T, out.shape[0], x.shape[1]);
    CHECK_SHAPE_2D(x, T, x.shape[0], out.shape[1]);
    CHECK_SHAPE_1D(index, I32, index.shape[0]);
    CHECK(rows >= 0 && rows <= out.shape[0] && rows <= index.shape[0] && divisor > 0,
          "gather of %lld rows by %lld indices into %lld rows", (long long)rows,
          (long long)index.shape[0], (long long)out.shape[0]);
    dev->backend->op.gather_rows(dev, out, x, index, rows, divisor);
}

void combine_forward(Device *dev, Tensor out, Tensor y, Tensor slot_row, Tensor weights) {
    int64_t N = out.shape[0], K = slot_row.shape[1];
    DType T = storage(y);
    CHECK_SHAPE_2D(out, T, N, y.shape[1]);
    CHECK_SHAPE_2D(y, T, y.shape[0], out.shape[1]);
    CHECK_SHAPE_2D(slot_row, I32, N, K);
    if (weights.data) CHECK_SHAPE_2D(weights, F32, N, K);
    dev->backend->op.combine_forward(dev, out, y, slot_row, weights);
}

void combine_backward(Device *dev, Tensor dy, Tensor dweights, Tensor dout, Tensor y,
                      Tensor slot_row, Tensor row_choice, Tensor weights) {
    int64_t N = dout.shape[0], D = dout.shape[1], K = slot_row.shape[1];
    DType T = storage(y);
    CHECK_SHAPE_2D(dout, T, N, D);
    CHECK_SHAPE_2D(y, T, y.shape[0], D);
    CHECK_SHAPE_2D(dy, T, y.shape[0], D);
    CHECK_SHAPE_2D(slot_row, I32, N, K);
    if (row_choice.data) {
        CHECK_SHAPE_1D(row_choice, I32, row_choice.shape[0]);
        CHECK(row_choice.shape[0] <= dy.shape[0], "choices of %lld rows, dy has %lld",
              (long long)row_choice.shape[0], (long long)dy.shape[0]);
    }
    CHECK_SHAPE_2D(weights, F32, N, K);
    CHECK_SHAPE_2D(dweights, F32, N, K);
    dev->backend->op.combine_backward(dev, dy, dweights, dout, y, slot_row, row_choice, weights);
}

void renormalize_forward(Device *dev, Tensor scaled, Tensor weights, Tensor kept) {
    int64_t N = weights.shape[0], K = weights.shape[1];
    CHECK_SHAPE_2D(weights, F32, N, K);
    CHECK_SHAPE_2D(scaled, F32, N, K);
    CHECK_SHAPE_2D(kept, U8, N, K);
    dev->backend->op.renormalize_forward(dev, scaled, weights, kept);
}

void renormalize_backward(Device *dev, Tensor dscaled, Tensor scaled, Tensor weights, Tensor kept) {
    int64_t N = weights.shape[0], K = weights.shape[1];
    CHECK_SHAPE_2D(weights, F32, N, K);
    CHECK_SHAPE_2D(scaled, F32, N, K);
    CHECK_SHAPE_2D(dscaled, F32, N, K);
    CHECK_SHAPE_2D(kept, U8, N, K);
    dev->backend->op.renormalize_backward(dev, dscaled, scaled, weights, kept);
}

// ---- loss ---------------------------------------------------------------------------------------

void cross_entropy(Device *dev, Tensor losses, Tensor logits, Tensor targets, float scale) {
    int64_t N = logits.shape[0], V = logits.shape[1];
    CHECK_SHAPE_2D(logits, storage(logits), N, V);
    CHECK_SHAPE_1D(losses, F32, N);
    CHECK_SHAPE_1D(targets, I32, N);
    dev->backend->op.cross_entropy(dev, losses, logits, targets, scale);
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

void segment_sum(Device *dev, Tensor sums, int64_t column, Tensor x, double divisor) {
    CHECK_SHAPE_2D(sums, F64, sums.shape[0], sums.shape[1]);
    CHECK_SHAPE_1D(x, F32, x.shape[0]);
    CHECK(column >= 0 && column < sums.shape[1], "column %lld of %lld", (long long)column,
          (long long)sums.shape[1]);
    check_parts(sums.shape[0], x.shape[0]);
    dev->backend->op.segment_sum(dev, sums, column, x, divisor);
}

void sum_of_squares(Device *dev, Tensor sums, Tensor x, Tensor offsets) {
    CHECK_SHAPE_1D(sums, F64, offsets.shape[0] - 1);
    CHECK_SHAPE_1D(offsets, I64, sums.shape[0] + 1);
    CHECK_SHAPE_1D(x, F32, x.shape[0]);
    dev->backend->op.sum_of_squares(dev, sums, x, offsets);
}

// ---- optimizer ----------------------------------------------------------------------------------

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
