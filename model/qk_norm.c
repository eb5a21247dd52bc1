#include "model/qk_norm.h"

#include "model/dense_gradient.h"

static QkNormKind kind_of(const Work *work) {
    return work->config->attention.qk_norm;
}

static QkNorm values_of(const QueryKeyNorm *norm, const Work *work) {
    return (QkNorm){kind_of(work), (float)work->config->norm_eps, work_value(work, norm->q_weight),
                    work_value(work, norm->k_weight)};
}

void query_key_norm_declare(QueryKeyNorm *norm, Work *work) {
    QkNormKind kind = kind_of(work);
    if (kind == QK_NORM_NONE) return;
    AttentionShape s = work->config->attention.shape;
    Param weight = {.rank = 1, .init = INIT_ONES, .group = GROUP_NO_DECAY};
    weight.shape[0] = qk_norm_q_width(s, kind);
    norm->q_weight = param_add(work->params, weight, "attention.q_norm");
    weight.shape[0] = qk_norm_k_width(s, kind);
    norm->k_weight = param_add(work->params, weight, "attention.k_norm");
}

void query_key_norm_layout(QueryKeyNorm *norm, Work *work, Arena *activations, Arena *scratch) {
    QkNormKind kind = kind_of(work);
    if (kind == QK_NORM_NONE) return;
    AttentionShape s = work->config->attention.shape;
    int64_t N = work->shape.N;
    norm->x = arena_2d(activations, work->storage, N, attention_qkv_width(s));
    norm->rstd = arena_2d(activations, F32, N, qk_norm_groups(s, kind));
    norm->dq = arena_2d(scratch, F32, N, qk_norm_q_width(s, kind));
    norm->dk = arena_2d(scratch, F32, N, qk_norm_k_width(s, kind));
}

Tensor query_key_norm_input(const QueryKeyNorm *norm, const Work *work, Tensor out) {
    return kind_of(work) == QK_NORM_NONE ? out : norm->x;
}

void query_key_norm_forward(QueryKeyNorm *norm, Work *work, Tensor out) {
    if (kind_of(work) == QK_NORM_NONE) return;
    qk_norm_forward(work->dev, out, norm->rstd, norm->x, work->config->attention.shape,
                    values_of(norm, work));
}

void query_key_norm_backward(QueryKeyNorm *norm, Work *work, Tensor dx) {
    if (kind_of(work) == QK_NORM_NONE) return;
    qk_norm_backward(work->dev, dx, norm->dq, norm->dk, norm->x, norm->rstd,
                     work->config->attention.shape, values_of(norm, work));
    bias_gradient(work, norm->q_weight, OWN_GRADIENT, norm->dq);
    bias_gradient(work, norm->k_weight, OWN_GRADIENT, norm->dk);
}
