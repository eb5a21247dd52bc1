#include "model/latent_attention.h"

#include "kernels/integers.h"
#include "model/attention.h"
#include "model/dense_gradient.h"
#include "model/linear.h"
#include "model/positions.h"
#include "model/stream_digests.h"

// A latent of each token, columns of the down-projection's rows, and what it is projected up to.
typedef struct Latent {
    int64_t rank, first;     // width, and its first column
    int norm;                // parameter (rank)
    Linear up;               // weight (width, rank)
    Tensor x;                // (N, rank) f32, kept
    Tensor statistics;       // of its norm
    Tensor out;              // (N, rank) stored, normalised
    Tensor rows;             // (N, width) stored, or its gradient: scratch
    Tensor dout, dx;         // (N, rank) stored, and f32: scratch of the backward pass
    Tensor partial, columns; // likewise (dense_gradient.h)
} Latent;

typedef struct LatentAttention {
    AttentionShape shape;
    int64_t d_rope, d_nope; // of a query or key head
    int64_t layer;
    PositionKind positions;
    Linear down;                 // weight ([queries or their latent | latent | rotary key], D)
    int64_t q_width;             // rows of the first of the three
    Latent query, kv;            // query.rank 0: the queries have none
    Linear output;               // weight (D, H·d_value)
    int sinks;                   // parameter (H): with attention.softmax sink alone
    Tensor x;                    // (N, D) input, borrowed
    Tensor down_rows;            // (N, q_width + kv rank + d_rope) stored, or its gradient: scratch
    Tensor qkv_rows;             // (N, W) stored, after rotation
    Tensor heads, lse;           // (N, H·d_value) stored, (N, H)
    Tensor dheads, dqkv, dsinks; // scratch of the backward pass
    // of generation, for each position: latents, what they are projected up to, keys and values
    Tensor cached, cached_rows, keys;
} LatentAttention;

// ---- latents ------------------------------------------------------------------------------------

static const NormRule LATENT_NORM = {.kind = RMSNORM};

static NormRule norm_rule(const Work *work) {
    NormRule rule = LATENT_NORM;
    rule.eps = (float)work->config->norm_eps;
    return rule;
}

static void latent_declare(Latent *l, Work *work, const char *name, Param up) {
    Param norm = {.rank = 1, .shape = {l->rank}, .init = INIT_ONES, .group = GROUP_NO_DECAY};
    l->norm = param_add(work->params, norm, "attention.%s_norm", name);
    up.rank = 2;
    up.shape[1] = l->rank;
    up.group = GROUP_HIDDEN;
    up.init_std = work->config->init_std;
    l->up = linear_declare(work, up, false, "attention.%s_up", name);
}

static int64_t latent_width(const Latent *l, const Work *work) {
    return work->params->rows[l->up.weight].shape[0];
}

static void latent_layout(Latent *l, Work *work, Arena *activations, Arena *scratch) {
    int64_t N = work->shape.N;
    l->x = arena_2d(activations, F32, N, l->rank);
    l->statistics = arena_2d(activations, F32, norm_statistics(LATENT_NORM.kind), N);
    l->out = arena_2d(activations, work->storage, N, l->rank);
    l->rows = arena_2d(scratch, work->storage, N, latent_width(l, work));
    l->dout = arena_2d(scratch, work->storage, N, l->rank);
    l->dx = arena_2d(scratch, F32, N, l->rank);
    l->partial = arena_2d(scratch, F32, work->shape.dense_parts, l->rank);
    l->columns = norm_node_statistics(work, LATENT_NORM.kind, scratch);
}

static void latent_forward(Latent *l, Work *work, Tensor down_rows) {
    copy_columns(work->dev, l->x, down_rows,
                 (ColumnBlocks){.blocks = 1, .width = l->rank, .x_first = l->first});
    NormParams norm = {.weight = work_value(work, l->norm)};
    normalize_forward(work->dev, l->out, l->statistics, l->x, l->x, (Tensor){0}, norm,
                      norm_rule(work));
    linear_forward(work, l->up, l->rows, l->out);
}

// From the gradient of l->rows, there.
static void latent_backward(Latent *l, Work *work, Tensor ddown_rows) {
    linear_backward(work, l->up, l->dout, l->rows, l->out);
    fill_zero(work->dev, l->dx);
    NormParams norm = {.weight = work_value(work, l->norm)};
    NormGradient gradient = {l->norm, -1, l->partial, l->columns};
    norm_gradient(work, gradient, l->dx, l->dout, l->x, l->statistics, norm, norm_rule(work));
    copy_columns(work->dev, ddown_rows, l->dx,
                 (ColumnBlocks){.blocks = 1, .width = l->rank, .out_first = l->first});
}

// ---- the layer ----------------------------------------------------------------------------------

static AttentionRule rule_of(const LatentAttention *a, const Work *work) {
    bool sink = work->config->attention.softmax == SOFTMAX_SINK;
    return attention_rule(work, a->shape, a->layer,
                          sink ? work_value(work, a->sinks) : (Tensor){0});
}

static int64_t q_width_of(const AttentionConfig *config) {
    return config->q_rank > 0 ? config->q_rank : config->shape.heads * config->shape.d_head;
}

static void declare(void *self, Work *work, int64_t layer) {
    LatentAttention *a = self;
    const ModelConfig *config = work->config;
    const AttentionConfig *attention = &config->attention;
    const BiasFacts *bias = &BIASES[config->bias];
    AttentionShape s = a->shape = attention->shape;
    a->d_rope = attention_d_rope(attention);
    a->d_nope = s.d_head - a->d_rope;
    a->layer = layer;
    a->positions = model_positions(config, layer);
    a->q_width = q_width_of(attention);
    a->query = (Latent){.rank = attention->q_rank};
    a->kv = (Latent){.rank = attention->kv_rank, .first = a->q_width};
    a->down =
        linear_declare(work,
                       (Param){.rank = 2,
                               .shape = {a->q_width + a->kv.rank + a->d_rope, config->d_model},
                               .fused = {a->q_width, a->kv.rank, a->d_rope},
                               .group = GROUP_HIDDEN,
                               .init_std = config->init_std},
                       bias->qkv, "attention.down");
    if (a->query.rank > 0)
        latent_declare(&a->query, work, "q", (Param){.shape = {s.heads * s.d_head}});
    int64_t nope = s.heads * a->d_nope, value = s.heads * s.d_value;
    latent_declare(&a->kv, work, "kv", (Param){.shape = {nope + value}, .fused = {nope, value}});
    a->output = linear_declare(work,
                               (Param){.rank = 2,
                                       .shape = {config->d_model, value},
                                       .group = GROUP_HIDDEN,
                                       .init_std = model_residual_std(config)},
                               bias->output, "attention.output");
    if (attention->softmax == SOFTMAX_SINK)
        a->sinks = param_add(work->params,
                             (Param){.rank = 1,
                                     .shape = {s.heads},
                                     .init_std = config->init_std,
                                     .group = GROUP_NO_DECAY},
                             "attention.sinks");
}

static void layout(void *self, Work *work, Statistics *stats, Arena *activations, Arena *scratch) {
    (void)stats;
    LatentAttention *a = self;
    AttentionShape s = a->shape;
    int64_t N = work->shape.N, W = attention_qkv_width(s), P = work->positions->count;
    a->qkv_rows = arena_2d(activations, work->storage, N, W);
    a->heads = arena_2d(activations, work->storage, N, s.heads * s.d_value);
    a->lse = arena_2d(activations, F32, N, s.heads);
    size_t mark = arena_mark(scratch);
    a->down_rows = arena_2d(scratch, work->storage, N, a->q_width + a->kv.rank + a->d_rope);
    if (a->query.rank > 0) latent_layout(&a->query, work, activations, scratch);
    latent_layout(&a->kv, work, activations, scratch);
    a->dheads = arena_2d(scratch, work->storage, N, s.heads * s.d_value);
    a->dqkv = arena_2d(scratch, work->storage, N, W);
    if (work->config->attention.softmax == SOFTMAX_SINK)
        a->dsinks = arena_2d(scratch, F32, N, s.heads);
    if (work->decoding) {
        a->cached = arena_2d(scratch, work->storage, P, a->kv.rank);
        a->cached_rows = arena_2d(scratch, work->storage, P, latent_width(&a->kv, work));
        a->keys = arena_2d(scratch, work->storage, P, attention_kv_width(s));
    }
    arena_release(scratch, mark);
}

static double weights_of(const ModelConfig *config) {
    const AttentionConfig *attention = &config->attention;
    AttentionShape s = attention->shape;
    double D = (double)config->d_model, kv_rank = (double)attention->kv_rank;
    double d_rope = (double)attention_d_rope(attention), H = (double)s.heads;
    double q_up = (double)attention->q_rank * H * (double)s.d_head;
    double kv_up = kv_rank * H * ((double)s.d_head - d_rope + (double)s.d_value);
    double down = (double)q_width_of(attention) + kv_rank + d_rope;
    return D * (down + H * (double)s.d_value) + q_up + kv_up;
}

static void cost(const void *self, const Work *work, LayerCost *cost) {
    const LatentAttention *a = self;
    AttentionShape s = a->shape;
    double keys =
        (double)s.heads * attention_mean_keys(work, a->layer) * (double)(s.d_head + s.d_value);
    cost->flops_per_token += 2 * (weights_of(work->config) + keys);
    cost->scratch.attention = s;
}

// Blocks of every head's own columns, from `x_first` on and `x_stride` apart; out's are those of
// keys that begin at `out_first`.
static ColumnBlocks head_columns(const LatentAttention *a, int64_t width, int64_t out_first,
                                 int64_t x_first, int64_t x_stride) {
    return (ColumnBlocks){.blocks = a->shape.heads,
                          .width = width,
                          .out_first = out_first,
                          .out_stride = a->shape.d_head,
                          .x_first = x_first,
                          .x_stride = x_stride};
}

// Keys and values of rows in the order of attention_ops.h, from `first` on: the rotary key stands
// in `shared` from its column x_first on, the rest in `rows`, as kv.up writes it.
static void place_keys(const LatentAttention *a, Work *work, Tensor out, int64_t first,
                       Tensor shared, int64_t x_first, Tensor rows) {
    AttentionShape s = a->shape;
    copy_columns(work->dev, out, shared, head_columns(a, a->d_rope, first, x_first, 0));
    copy_columns(work->dev, out, rows, head_columns(a, a->d_nope, first + a->d_rope, 0, a->d_nope));
    copy_columns(work->dev, out, rows,
                 (ColumnBlocks){.blocks = 1,
                                .width = s.heads * s.d_value,
                                .out_first = first + s.heads * s.d_head,
                                .x_first = s.heads * a->d_nope});
}

// Queries, keys and values of the tokens, of which the first stands at `position`.
static void project(LatentAttention *a, Work *work, Tensor x, int64_t position) {
    int64_t queries = a->shape.heads * a->shape.d_head;
    linear_forward(work, a->down, a->down_rows, x);
    if (a->query.rank > 0) latent_forward(&a->query, work, a->down_rows);
    latent_forward(&a->kv, work, a->down_rows);
    copy_columns(work->dev, a->qkv_rows, a->query.rank > 0 ? a->query.rows : a->down_rows,
                 (ColumnBlocks){.blocks = 1, .width = queries});
    place_keys(a, work, a->qkv_rows, queries, a->down_rows, a->q_width + a->kv.rank, a->kv.rows);
    positions_rotate(work->positions, a->positions, work, a->qkv_rows, position, false);
}

static void forward(void *self, Work *work, Statistics *stats, Tensor out, Tensor x) {
    (void)stats;
    LatentAttention *a = self;
    a->x = x;
    project(a, work, x, 0);
    digest_part(work, "qkv", a->qkv_rows);
    attention_forward(work->dev, a->heads, a->lse, (Tensor){0}, a->qkv_rows, rule_of(a, work));
    digest_part(work, "heads", a->heads);
    linear_forward(work, a->output, out, a->heads);
}

// project() back, from dqkv.
static void project_backward(LatentAttention *a, Work *work, Tensor dx) {
    AttentionShape s = a->shape;
    int64_t queries = s.heads * s.d_head;
    Tensor dq = a->query.rank > 0 ? a->query.rows : a->down_rows;
    positions_rotate(work->positions, a->positions, work, a->dqkv, 0, true);
    digest_part(work, "qkv", a->dqkv);
    copy_columns(work->dev, dq, a->dqkv, (ColumnBlocks){.blocks = 1, .width = queries});
    copy_columns(work->dev, a->down_rows, a->dqkv, // the key that all heads share
                 (ColumnBlocks){.blocks = 1,
                                .width = a->d_rope,
                                .out_first = a->q_width + a->kv.rank,
                                .x_first = queries,
                                .terms = s.heads,
                                .term_stride = s.d_head});
    copy_columns(work->dev, a->kv.rows, a->dqkv,
                 (ColumnBlocks){.blocks = s.heads,
                                .width = a->d_nope,
                                .out_stride = a->d_nope,
                                .x_first = queries + a->d_rope,
                                .x_stride = s.d_head});
    copy_columns(work->dev, a->kv.rows, a->dqkv,
                 (ColumnBlocks){.blocks = 1,
                                .width = s.heads * s.d_value,
                                .out_first = s.heads * a->d_nope,
                                .x_first = 2 * queries});
    latent_backward(&a->kv, work, a->down_rows);
    if (a->query.rank > 0) latent_backward(&a->query, work, a->down_rows);
    linear_backward(work, a->down, dx, a->down_rows, a->x);
}

static void backward(void *self, Work *work, Tensor dx, Tensor dout) {
    LatentAttention *a = self;
    linear_backward(work, a->output, a->dheads, dout, a->heads);
    digest_part(work, "heads", a->dheads);
    attention_backward(work->dev, a->dqkv, a->dsinks, a->dheads, a->qkv_rows, a->heads, a->lse,
                       rule_of(a, work));
    if (work->config->attention.softmax == SOFTMAX_SINK)
        bias_gradient(work, a->sinks, OWN_GRADIENT, a->dsinks);
    project_backward(a, work, dx);
}

// The keys and values of all positions so far are projected up anew, row by row as the training
// pass does it: the cache stays small, and every bit is that pass's. (Taking the up-projections
// into the queries and the output instead would be another order of the same sums.)
static void decode(void *self, Work *work, Tensor out, Tensor x, Tensor cache, int64_t position) {
    LatentAttention *a = self;
    AttentionShape s = a->shape;
    int64_t N = work->shape.N, count = position + N, rank = a->kv.rank;
    Tensor added = tensor_rows(cache, position, N), rows = tensor_rows(cache, 0, count);
    project(a, work, x, position);
    copy_columns(work->dev, added, a->kv.out, (ColumnBlocks){.blocks = 1, .width = rank});
    copy_columns(
        work->dev, added, a->qkv_rows,
        (ColumnBlocks){
            .blocks = 1, .width = a->d_rope, .out_first = rank, .x_first = s.heads * s.d_head});
    Tensor latents = tensor_rows(a->cached, 0, count);
    Tensor projected = tensor_rows(a->cached_rows, 0, count);
    Tensor keys = tensor_rows(a->keys, 0, count);
    copy_columns(work->dev, latents, rows, (ColumnBlocks){.blocks = 1, .width = rank});
    linear_multiply(work, a->kv.up, projected, latents,
                    (Segments){.groups = 1, .parts = 1, .offsets = (int64_t[]){0, count}}, 0);
    place_keys(a, work, keys, 0, rows, rank, projected);
    attention_decode(work->dev, a->heads, a->qkv_rows, keys, rule_of(a, work), position);
    linear_forward(work, a->output, out, a->heads);
}

static int64_t cache_width(const void *self, const Work *work) {
    (void)work;
    const LatentAttention *a = self;
    return a->kv.rank + a->d_rope;
}

static void bound(const ModelConfig *config, int64_t layer, LayerBound *bound) {
    (void)layer;
    const AttentionConfig *attention = &config->attention;
    AttentionShape s = attention->shape;
    double ranks = (double)(attention->q_rank + attention->kv_rank);
    bound->parameters += weights_of(config) + ranks + (double)s.heads;
    bound->kept += 8 * (double)s.heads * (double)(s.d_head + s.d_value) + 8 * ranks;
}

const LayerKind LATENT_ATTENTION = {
    .state_bytes = sizeof(LatentAttention),
    .bound = bound,
    .check_device = attention_check_device,
    .declare = declare,
    .layout = layout,
    .cost = cost,
    .forward = forward,
    .backward = backward,
    .decode = decode,
    .cache_width = cache_width,
};
