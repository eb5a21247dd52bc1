#include "model/attention.h"

#include <math.h>
#include <string.h>

#include "model/attention_gate.h"
#include "model/dense_gradient.h"
#include "model/dropout.h"
#include "model/linear.h"
#include "model/positions.h"
#include "model/qk_clip.h"
#include "model/qk_norm.h"
#include "model/stream_digests.h"

typedef struct Attention {
    Linear qkv, output;     // weights (W, D) and (D, H·d_value)
    PositionKind positions; // likewise
    int sinks;              // parameter (H): with attention.softmax sink alone
    int64_t layer;
    int max_logits; // place of the statistic, where attention.max_logits asks for it
    QueryKeyNorm norm;
    OutputGate gate;
    Tensor x;            // (N, D) input, borrowed
    Tensor qkv_rows;     // (N, W) stored, after rotation
    Tensor heads, lse;   // (N, H·d_value) stored, (N, H)
    Tensor dheads, dqkv; // scratch of the backward pass
    Tensor dsinks;       // (N, H), likewise
    Tensor largest;      // (N, H) scratch: the largest score of each row
    QueryKeyClip clip;
} Attention;

AttentionRule attention_rule(const Work *work, AttentionShape shape, int64_t layer, Tensor sinks) {
    const AttentionConfig *config = &work->config->attention;
    AttentionRule rule = {.shape = shape,
                          .T = work->shape.T,
                          .scale = (float)attention_scale(config),
                          .softmax = config->softmax,
                          .sinks = sinks,
                          .window = model_window(work->config, layer),
                          .bidirectional = work->config->objective == OBJECTIVE_MASKED,
                          .positions = work->step.positions,
                          .softcap = (float)config->softcap};
    if (model_positions(work->config, layer) == POSITIONS_ALIBI)
        rule.slopes = work->positions->slopes;
    if (dropout_is_due(work, config->dropout))
        rule.dropout = (AttentionDropout){(float)config->dropout,
                                          work_stream(work, RNG_DROPOUT_ATTENTION, layer),
                                          work->step.first_token};
    return rule;
}

static AttentionRule rule_of(const Attention *a, const Work *work) {
    bool sink = work->config->attention.softmax == SOFTMAX_SINK;
    return attention_rule(work, work->config->attention.shape, a->layer,
                          sink ? work_value(work, a->sinks) : (Tensor){0});
}

bool attention_check_device(const ModelConfig *config, int64_t layer, const Device *dev,
                            Error *err) {
    (void)layer;
    AttentionShape s = config->attention.shape;
    int64_t most = dev->limits.head;
    return device_check_limit(dev, "attention.d_head", s.d_head, most, err) &&
           device_check_limit(dev, "attention.d_value", s.d_value, most, err);
}

static void declare(void *self, Work *work, int64_t layer) {
    Attention *a = self;
    const ModelConfig *config = work->config;
    AttentionShape s = config->attention.shape;
    int64_t D = config->d_model;
    a->layer = layer;
    a->positions = model_positions(config, layer);
    const BiasFacts *bias = &BIASES[config->bias];
    a->qkv = linear_declare(
        work,
        (Param){.rank = 2,
                .shape = {attention_qkv_width(s), D},
                .fused = {s.heads * s.d_head, s.kv_heads * s.d_head, s.kv_heads * s.d_value},
                .group = GROUP_HIDDEN,
                .init_std = config->init_std},
        bias->qkv, "attention.qkv");
    query_key_norm_declare(&a->norm, work);
    output_gate_declare(&a->gate, work);
    a->output = linear_declare(work,
                               (Param){.rank = 2,
                                       .shape = {D, s.heads * s.d_value},
                                       .group = GROUP_HIDDEN,
                                       .init_std = model_residual_std(config)},
                               bias->output, "attention.output");
    if (config->attention.softmax == SOFTMAX_SINK)
        a->sinks = param_add(work->params,
                             (Param){.rank = 1,
                                     .shape = {s.heads},
                                     .init_std = config->init_std,
                                     .group = GROUP_NO_DECAY},
                             "attention.sinks");
}

static double largest_of_layers(const Statistics *stats, const char *name) {
    double largest = -INFINITY;
    for (int i = 0; i < stats->column_count; i++) {
        const StatisticsColumn *column = &stats->columns[i];
        if (strcmp(column->name, name) != 0) continue;
        for (int64_t h = 0; h < column->count; h++)
            largest = fmax(largest, statistics_sums_of(stats, column)[h]);
    }
    return largest;
}

static const Summary MAX_LOGIT = {
    .field = MAX_LOGIT_COLUMN, .digits = 6, .value = largest_of_layers, .column = MAX_LOGIT_COLUMN};

static void layout(void *self, Work *work, Statistics *stats, Arena *activations, Arena *scratch) {
    Attention *a = self;
    AttentionShape s = work->config->attention.shape;
    int64_t N = work->shape.N, W = attention_qkv_width(s);
    a->qkv_rows = arena_2d(activations, work->storage, N, W);
    a->heads = arena_2d(activations, work->storage, N, s.heads * s.d_value);
    a->lse = arena_2d(activations, F32, N, s.heads);
    size_t mark = arena_mark(scratch);
    query_key_norm_layout(&a->norm, work, activations, scratch);
    output_gate_layout(&a->gate, work, activations, scratch);
    a->dheads = arena_2d(scratch, work->storage, N, s.heads * s.d_value);
    a->dqkv = arena_2d(scratch, work->storage, N, W);
    if (work->config->attention.softmax == SOFTMAX_SINK)
        a->dsinks = arena_2d(scratch, F32, N, s.heads);
    qk_clip_layout(&a->clip, work, activations);
    bool told = work->config->attention.max_logits || work->config->attention.qk_clip > 0;
    if (told && work->training) {
        a->largest = arena_2d(scratch, F32, N, s.heads);
        a->max_logits = statistics_max(stats, MAX_LOGIT_COLUMN, a->layer, s.heads);
        statistics_summarize(stats, &MAX_LOGIT);
    }
    arena_release(scratch, mark);
}

double attention_mean_keys(const Work *work, int64_t layer) {
    int64_t window = model_window(work->config, layer);
    int64_t T = work->shape.T, most = window > 0 && window < T ? window : T;
    double mean = (double)most - (double)(most * (most - 1)) / (double)(2 * T);
    return work->config->objective == OBJECTIVE_MASKED ? 2 * mean - 1 : mean; // as many behind it
}

static void cost(const void *self, const Work *work, LayerCost *cost) {
    const Attention *a = self;
    AttentionShape s = work->config->attention.shape;
    double keys =
        (double)s.heads * attention_mean_keys(work, a->layer) * (double)(s.d_head + s.d_value);
    double weights =
        (double)work->config->d_model *
        (double)(attention_qkv_width(s) + s.heads * s.d_value + output_gate_width(work->config));
    cost->flops_per_token += 2 * (weights + keys);
    cost->scratch.attention = s;
}

// Queries, keys and values of the tokens, but where the queries and keys point by position.
static void project(Attention *a, Work *work, Tensor x) {
    linear_forward(work, a->qkv, query_key_norm_input(&a->norm, work, a->qkv_rows), x);
    query_key_norm_forward(&a->norm, work, a->qkv_rows);
}

static void forward(void *self, Work *work, Statistics *stats, Tensor out, Tensor x) {
    Attention *a = self;
    a->x = x;
    project(a, work, x);
    positions_rotate(work->positions, a->positions, work, a->qkv_rows, 0, false);
    digest_part(work, "qkv", a->qkv_rows);
    attention_forward(work->dev, a->heads, a->lse, a->largest, a->qkv_rows, rule_of(a, work));
    digest_part(work, "heads", a->heads);
    if (a->largest.data)
        segment_max(work->dev, statistics_rows(stats, work), a->max_logits, a->largest);
    linear_forward(work, a->output, out, output_gate_forward(&a->gate, work, a->heads, x));
}

static void backward(void *self, Work *work, Tensor dx, Tensor dout) {
    Attention *a = self;
    linear_backward(work, a->output, a->dheads, dout, output_gate_result(&a->gate, work, a->heads));
    output_gate_backward(&a->gate, work, a->dheads, a->heads);
    digest_part(work, "heads", a->dheads);
    attention_backward(work->dev, a->dqkv, a->dsinks, a->dheads, a->qkv_rows, a->heads, a->lse,
                       rule_of(a, work));
    if (work->config->attention.softmax == SOFTMAX_SINK)
        bias_gradient(work, a->sinks, OWN_GRADIENT, a->dsinks);
    positions_rotate(work->positions, a->positions, work, a->dqkv, 0, true);
    query_key_norm_backward(&a->norm, work, a->dqkv);
    digest_part(work, "qkv", a->dqkv);
    linear_backward(work, a->qkv, dx, a->dqkv, a->x);
    output_gate_backward_input(&a->gate, work, dx, a->x);
}

static void decode(void *self, Work *work, Tensor out, Tensor x, Tensor cache, int64_t position) {
    Attention *a = self;
    AttentionShape s = work->config->attention.shape;
    int64_t W = attention_qkv_width(s), width = attention_kv_width(s);
    project(a, work, x);
    positions_rotate(work->positions, a->positions, work, a->qkv_rows, position, false);
    // Keys and values are the tail of the projected rows.
    copy_columns(work->dev, tensor_rows(cache, position, work->shape.N), a->qkv_rows,
                 attention_columns(width, 0, W - width));
    attention_decode(work->dev, a->heads, a->qkv_rows, cache, rule_of(a, work), position);
    linear_forward(work, a->output, out, output_gate_forward(&a->gate, work, a->heads, x));
}

static int64_t cache_width(const void *self, const Work *work) {
    (void)self;
    return attention_kv_width(work->config->attention.shape);
}

static void bound(const ModelConfig *config, int64_t layer, LayerBound *bound) {
    (void)layer;
    AttentionShape s = config->attention.shape;
    double width = (double)((s.heads + s.kv_heads) * (s.d_head + s.d_value));
    bound->parameters += (double)config->d_model * width + (double)s.heads + width; // with norms
    bound->parameters += (double)config->d_model * (double)output_gate_width(config);
    bound->kept += 5 * width;
}

static void after_step(void *self, Work *work, const Statistics *stats) {
    Attention *a = self;
    qk_clip_after_step(&a->clip, work, stats, a->layer, a->qkv);
}

const LayerKind ATTENTION = {
    .state_bytes = sizeof(Attention),
    .bound = bound,
    .check_device = attention_check_device,
    .declare = declare,
    .layout = layout,
    .cost = cost,
    .forward = forward,
    .backward = backward,
    .after_step = after_step,
    .decode = decode,
    .cache_width = cache_width,
};
