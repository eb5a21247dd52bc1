#include "kernels/attention_ops.h"

#include "kernels/op_checks.h"

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

static void check_rule(AttentionRule rule, int64_t rows) {
    check_heads(rule.shape);
    CHECK(rule.scale > 0.0f, "attention scores times %g, expected a positive number",
          (double)rule.scale);
    CHECK(rule.window >= 0, "a window of %lld keys", (long long)rule.window);
    if (rule.softmax == SOFTMAX_SINK) CHECK_SHAPE_1D(rule.sinks, F32, rule.shape.heads);
    CHECK(rule.softcap >= 0.0f, "scores capped at %g", (double)rule.softcap);
    if (rule.slopes.data) CHECK_SHAPE_1D(rule.slopes, F32, rule.shape.heads);
    if (rule.positions.data) CHECK_SHAPE_1D(rule.positions, I32, rows);
    CHECK(rule.dropout.rate >= 0.0f && rule.dropout.rate < 1.0f,
          "dropout of %g of attention's probabilities", (double)rule.dropout.rate);
}

int64_t qk_norm_q_width(AttentionShape s, QkNormKind kind) {
    return kind == QK_NORM_WHOLE ? s.heads * s.d_head : s.d_head;
}

int64_t qk_norm_k_width(AttentionShape s, QkNormKind kind) {
    return kind == QK_NORM_WHOLE ? s.kv_heads * s.d_head : s.d_head;
}

int64_t qk_norm_groups(AttentionShape s, QkNormKind kind) {
    return kind == QK_NORM_WHOLE ? 2 : s.heads + s.kv_heads;
}

static void check_qk_norm(AttentionShape s, QkNorm norm, Tensor x, Tensor rstd) {
    check_heads(s);
    CHECK(norm.kind != QK_NORM_NONE, "a norm of queries and keys that is none");
    CHECK_SHAPE_2D(x, storage(x), x.shape[0], attention_qkv_width(s));
    CHECK_SHAPE_2D(rstd, F32, x.shape[0], qk_norm_groups(s, norm.kind));
    CHECK_SHAPE_1D(norm.q_weight, F32, qk_norm_q_width(s, norm.kind));
    CHECK_SHAPE_1D(norm.k_weight, F32, qk_norm_k_width(s, norm.kind));
}

void qk_norm_forward(Device *dev, Tensor out, Tensor rstd, Tensor x, AttentionShape s,
                     QkNorm norm) {
    check_qk_norm(s, norm, x, rstd);
    CHECK_SHAPE_2D(out, storage(x), x.shape[0], x.shape[1]);
    dev->backend->op.qk_norm_forward(dev, out, rstd, x, s, norm);
}

void qk_norm_backward(Device *dev, Tensor dx, Tensor dq_weight, Tensor dk_weight, Tensor x,
                      Tensor rstd, AttentionShape s, QkNorm norm) {
    check_qk_norm(s, norm, x, rstd);
    CHECK_SHAPE_2D(dx, storage(x), x.shape[0], x.shape[1]);
    CHECK_SHAPE_2D(dq_weight, F32, x.shape[0], norm.q_weight.shape[0]);
    CHECK_SHAPE_2D(dk_weight, F32, x.shape[0], norm.k_weight.shape[0]);
    dev->backend->op.qk_norm_backward(dev, dx, dq_weight, dk_weight, x, rstd, s, norm);
}

static void check_gate(Tensor x, Tensor gate) {
    int64_t W = x.shape[1], G = gate.shape[1];
    CHECK(G > 0 && W % G == 0, "%lld gates of rows of %lld", (long long)G, (long long)W);
    CHECK_SHAPE_2D(x, storage(x), x.shape[0], W);
    CHECK_SHAPE_2D(gate, storage(x), x.shape[0], G);
}

void gate_forward(Device *dev, Tensor out, Tensor x, Tensor gate) {
    check_gate(x, gate);
    CHECK_SHAPE_2D(out, storage(x), x.shape[0], x.shape[1]);
    dev->backend->op.gate_forward(dev, out, x, gate);
}

void gate_backward(Device *dev, Tensor dx, Tensor dgate, Tensor dout, Tensor x, Tensor gate) {
    check_gate(x, gate);
    CHECK_SHAPE_2D(dx, storage(x), x.shape[0], x.shape[1]);
    CHECK_SHAPE_2D(dout, storage(x), x.shape[0], x.shape[1]);
    CHECK_SHAPE_2D(dgate, storage(x), x.shape[0], gate.shape[1]);
    dev->backend->op.gate_backward(dev, dx, dgate, dout, x, gate);
}

void rope(Device *dev, Tensor qkv, AttentionShape s, Tensor cosines, Tensor sines, RowPositions at,
          bool inverse) {
    int64_t positions = cosines.shape[0], pairs = cosines.shape[1];
    check_heads(s);
    check_sequences(at.T, qkv.shape[0]);
    CHECK(pairs > 0 && 2 * pairs <= s.d_head, "rope of %lld pairs in heads of %lld channels",
          (long long)pairs, (long long)s.d_head);
    CHECK(at.first >= 0 && at.first + at.T <= positions, "rope from %lld over %lld of %lld",
          (long long)at.first, (long long)at.T, (long long)positions);
    if (at.of_rows.data) CHECK_SHAPE_1D(at.of_rows, I32, qkv.shape[0]);
    CHECK_SHAPE_2D(qkv, storage(qkv), qkv.shape[0], attention_qkv_width(s));
    CHECK_SHAPE_2D(cosines, F32, positions, pairs);
    CHECK_SHAPE_2D(sines, F32, positions, pairs);
    dev->backend->op.rope(dev, qkv, s, cosines, sines, at, inverse);
}

void attention_forward(Device *dev, Tensor out, Tensor lse, Tensor largest, Tensor qkv,
                       AttentionRule rule) {
    AttentionShape s = rule.shape;
    int64_t N = qkv.shape[0];
    DType stored = storage(qkv);
    check_rule(rule, N);
    check_sequences(rule.T, N);
    CHECK_SHAPE_2D(qkv, stored, N, attention_qkv_width(s));
    CHECK_SHAPE_2D(out, stored, N, s.heads * s.d_value);
    CHECK_SHAPE_2D(lse, F32, N, s.heads);
    if (largest.data) CHECK_SHAPE_2D(largest, F32, N, s.heads);
    dev->backend->op.attention_forward(dev, out, lse, largest, qkv, rule);
}

void attention_backward(Device *dev, Tensor dqkv, Tensor dsinks, Tensor dout, Tensor qkv,
                        Tensor out, Tensor lse, AttentionRule rule) {
    AttentionShape s = rule.shape;
    int64_t N = qkv.shape[0];
    DType stored = storage(qkv);
    check_rule(rule, N);
    check_sequences(rule.T, N);
    CHECK_SHAPE_2D(qkv, stored, N, attention_qkv_width(s));
    CHECK_SHAPE_2D(dqkv, stored, N, attention_qkv_width(s));
    CHECK_SHAPE_2D(out, stored, N, s.heads * s.d_value);
    CHECK_SHAPE_2D(dout, stored, N, s.heads * s.d_value);
    CHECK_SHAPE_2D(lse, F32, N, s.heads);
    if (rule.softmax == SOFTMAX_SINK) CHECK_SHAPE_2D(dsinks, F32, N, s.heads);
    dev->backend->op.attention_backward(dev, dqkv, dsinks, dout, qkv, out, lse, rule);
}

void attention_decode(Device *dev, Tensor out, Tensor qkv, Tensor cache, AttentionRule rule,
                      int64_t position) {
    AttentionShape s = rule.shape;
    DType T = storage(qkv);
    int64_t n = qkv.shape[0];
    check_rule(rule, n);
    CHECK(!rule.positions.data, "new tokens are of one document");
    CHECK(!rule.bidirectional, "new tokens are seen by no earlier one");
    CHECK_SHAPE_2D(out, T, n, s.heads * s.d_value);
    CHECK_SHAPE_2D(qkv, T, n, attention_qkv_width(s));
    CHECK_SHAPE_2D(cache, T, cache.shape[0], attention_kv_width(s));
    CHECK(position >= 0 && position + n <= cache.shape[0],
          "%lld tokens from position %lld in a cache of %lld rows", (long long)n,
          (long long)position, (long long)cache.shape[0]);
    dev->backend->op.attention_decode(dev, out, qkv, cache, rule, position);
}
