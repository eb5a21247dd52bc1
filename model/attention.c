#include "model/attention.h"

#include <math.h>

#include "model/linear.h"

void rope_table_layout(RopeTable *table, const ModelConfig *config, int64_t positions, Arena *arena,
                       Arena *host) {
    int64_t half = config->attention.shape.d_head / 2;
    table->cosines = arena_2d(arena, F32, positions, half);
    table->sines = arena_2d(arena, F32, positions, half);
    table->host_cosines = arena_mirror(host, table->cosines);
    table->host_sines = arena_mirror(host, table->sines);
}

void rope_table_fill(RopeTable *table, Device *dev, const ModelConfig *config) {
    int64_t positions = table->cosines.shape[0], half = table->cosines.shape[1];
    float *cosines = tensor_f32(table->host_cosines), *sines = tensor_f32(table->host_sines);
    for (int64_t t = 0; t < positions; t++)
        for (int64_t i = 0; i < half; i++) {
            double frequency = pow(config->attention.rope_theta, -(double)i / (double)half);
            cosines[t * half + i] = (float)cos((double)t * frequency);
            sines[t * half + i] = (float)sin((double)t * frequency);
        }
    device_upload(dev, table->cosines, table->host_cosines);
    device_upload(dev, table->sines, table->host_sines);
}

static AttentionRule attention_rule(const Work *work) {
    AttentionShape s = work->config->attention.shape;
    return (AttentionRule){s, work->T, (float)(1.0 / sqrt((double)s.d_head))};
}

void attention_declare(Attention *a, Work *work, int64_t layer) {
    const ModelConfig *config = work->config;
    AttentionShape s = config->attention.shape;
    int64_t D = config->d_model;
    a->qkv = param_add(
        work->params,
        (Param){.rank = 2, .shape = {attention_qkv_width(s), D}, .init_std = config->init_std},
        "layers.%lld.attention.qkv", (long long)layer);
    a->output = param_add(work->params,
                          (Param){.rank = 2,
                                  .shape = {D, s.heads * s.d_value},
                                  .init_std = model_residual_std(config)},
                          "layers.%lld.attention.output", (long long)layer);
}

void attention_layout(Attention *a, Work *work, Arena *activations, Arena *scratch) {
    AttentionShape s = work->config->attention.shape;
    int64_t N = work->N, W = attention_qkv_width(s);
    a->qkv_rows = arena_2d(activations, work->storage, N, W);
    a->heads = arena_2d(activations, work->storage, N, s.heads * s.d_value);
    a->lse = arena_2d(activations, F32, N, s.heads);
    size_t mark = arena_mark(scratch);
    a->dheads = arena_2d(scratch, work->storage, N, s.heads * s.d_value);
    a->dqkv = arena_2d(scratch, work->storage, N, W);
    arena_release(scratch, mark);
}

void attention_layer_forward(Attention *a, Work *work, Tensor out, Tensor x) {
    AttentionShape s = work->config->attention.shape;
    a->x = x;
    linear_forward(work, a->qkv, a->qkv_rows, x);
    rope(work->dev, a->qkv_rows, s, a->rope->cosines, a->rope->sines, work->T, 0, false);
    attention_forward(work->dev, a->heads, a->lse, a->qkv_rows, attention_rule(work));
    linear_forward(work, a->output, out, a->heads);
}

void attention_layer_backward(Attention *a, Work *work, Tensor dx, Tensor dout) {
    AttentionShape s = work->config->attention.shape;
    linear_backward(work, a->output, a->dheads, dout, a->heads);
    attention_backward(work->dev, a->dqkv, a->dheads, a->qkv_rows, a->heads, a->lse,
                       attention_rule(work));
    rope(work->dev, a->dqkv, s, a->rope->cosines, a->rope->sines, work->T, 0, true);
    linear_backward(work, a->qkv, dx, a->dqkv, a->x);
}

void attention_layer_decode(Attention *a, Work *work, Tensor out, Tensor x, Tensor cache,
                            int64_t position) {
    AttentionShape s = work->config->attention.shape;
    int64_t W = attention_qkv_width(s), width = attention_kv_width(s);
    linear_forward(work, a->qkv, a->qkv_rows, x);
    rope(work->dev, a->qkv_rows, s, a->rope->cosines, a->rope->sines, 1, position, false);
    // Keys and values are the tail of the projected row: one row of the cache.
    Tensor kv = tensor_reshape_2d(tensor_range(a->qkv_rows, W - width, width), 1, width);
    copy(work->dev, tensor_rows(cache, position, 1), kv);
    attention_decode(work->dev, a->heads, a->qkv_rows, cache, attention_rule(work), position);
    linear_forward(work, a->output, out, a->heads);
}
