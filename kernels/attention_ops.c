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

static void check_rule(AttentionRule rule) {
    check_heads(rule.shape);
    CHECK(rule.scale > 0.0f, "attention scores times %g, expected a positive number",
          (double)rule.scale);
    CHECK(rule.window >= 0, "a window of %lld keys", (long long)rule.window);
    if (rule.softmax == SOFTMAX_SINK) CHECK_SHAPE_1D(rule.sinks, F32, rule.shape.heads);
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

void rope(Device *dev, Tensor qkv, AttentionShape s, Tensor cosines, Tensor sines, int64_t T,
          int64_t first_position, bool inverse) {
    int64_t positions = cosines.shape[0], pairs = cosines.shape[1];
    check_heads(s);
    check_sequences(T, qkv.shape[0]);
    CHECK(pairs > 0 && 2 * pairs <= s.d_head, "rope of %lld pairs in heads of %lld channels",
          (long long)pairs, (long long)s.d_head);
    CHECK(first_position >= 0 && first_position + T <= positions,
          "rope from %lld over %lld of %lld", (long long)first_position, (long long)T,
          (long long)positions);
    CHECK_SHAPE_2D(qkv, storage(qkv), qkv.shape[0], attention_qkv_width(s));
    CHECK_SHAPE_2D(cosines, F32, positions, pairs);
    CHECK_SHAPE_2D(sines, F32, positions, pairs);
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
