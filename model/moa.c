#include "model/moa.h"

#include "model/attention.h"
#include "model/router_balance.h"
#include "model/router_bias.h"
#include "model/stream_digests.h"

static int64_t experts(const ModelConfig *config, int64_t layer) {
    (void)layer;
    return config->attention.experts;
}

static AttentionShape heads_of(const Work *work) {
    return work->config->attention.shape;
}

static bool check_device(const ModelConfig *config, int64_t layer, const Device *dev, Error *err) {
    const AttentionConfig *attention = &config->attention;
    return attention_check_device(config, layer, dev, err) &&
           device_check_limit(dev, "attention.experts", attention->experts, dev->limits.experts,
                              err) &&
           device_check_limit(dev, "attention.heads", attention->shape.heads, dev->limits.top_k,
                              err);
}

static void declare(void *self, Work *work, int64_t layer) {
    MoaLayer *moa = self;
    const ModelConfig *config = work->config;
    AttentionShape s = heads_of(work);
    int64_t E = config->attention.experts, K = s.heads, D = config->d_model;
    moa->places = placement_table(work->placement, layer, ROUTER_OF_MIXER, E);
    const BiasFacts *bias = &BIASES[config->bias];
    Param expert = {.kind = PARAM_EXPERT,
                    .rank = 3,
                    .places = moa->places,
                    .shape = {E, s.d_head, D},
                    .group = GROUP_HIDDEN,
                    .init_std = config->init_std,
                    .active = (double)K / (double)E};
    moa->layer = layer;
    moa->positions = model_positions(config, layer);
    router_declare(&moa->router, ROUTER_OF_MIXER,
                   (MoeShape){.experts = E, .scored = E, .top_k = K, .slots = K}, work, layer);
    moa->query = linear_declare(work, expert, bias->qkv, "attention.experts.query");
    moa->kv = linear_declare(work,
                             (Param){.rank = 2,
                                     .shape = {s.d_head + s.d_value, D},
                                     .fused = {s.d_head, s.d_value},
                                     .group = GROUP_HIDDEN,
                                     .init_std = config->init_std},
                             bias->qkv, "attention.kv");
    query_key_norm_declare(&moa->norm, work);
    expert.shape[1] = D;
    expert.shape[2] = s.d_value;
    expert.init_std = model_residual_std(config);
    moa->output = linear_declare(work, expert, bias->output, "attention.experts.output");
}

static void layout_scratch(MoaLayer *moa, Work *work, Arena *activations, Arena *scratch) {
    AttentionShape s = heads_of(work);
    DType stored = work->storage;
    int64_t N = work->shape.N, K = s.heads;
    query_key_norm_layout(&moa->norm, work, activations, scratch);
    moa->scratch.q_rows = arena_2d(scratch, stored, N * K, s.d_head);
    moa->scratch.kv_rows = arena_2d(scratch, stored, N, s.d_head + s.d_value);
    moa->scratch.dheads = arena_2d(scratch, stored, N, K * s.d_value);
    moa->scratch.dqkv = arena_2d(scratch, stored, N, attention_qkv_width(s));
    moa->scratch.dweights = arena_2d(scratch, F32, N, K);
    moa->scratch.dx = arena_2d(scratch, stored, N, work->config->d_model);
}

static void layout(void *self, Work *work, Statistics *stats, Arena *activations, Arena *scratch) {
    MoaLayer *moa = self;
    AttentionShape s = heads_of(work);
    int64_t N = work->shape.N, K = s.heads, D = work->config->d_model;
    int64_t E = work->config->attention.experts;
    router_layout(&moa->router, work, activations, scratch);
    router_report(&moa->router, work, stats);
    dispatch_layout(&moa->plan,
                    (DispatchShape){.layer = moa->layer,
                                    .tokens = N,
                                    .places = moa->places,
                                    .K = K,
                                    .choosable = E,
                                    .groups = work->shape.shards,
                                    .capacity = -1},
                    work, activations);
    expert_exchange_layout(&moa->queries,
                           (ExpertTraffic){&moa->plan, &LINEAR_EXPERTS, &moa->query, D, s.d_head,
                                           "queries.dispatched", "queries.returned"},
                           work, activations);
    expert_exchange_layout(&moa->outputs,
                           (ExpertTraffic){&moa->plan, &LINEAR_EXPERTS, &moa->output, s.d_value, D,
                                           "outputs.dispatched", "outputs.returned"},
                           work, activations);
    moa->qkv_rows = arena_2d(activations, work->storage, N, attention_qkv_width(s));
    moa->heads = arena_2d(activations, work->storage, N, K * s.d_value);
    moa->lse = arena_2d(activations, F32, N, K);

    size_t mark = arena_mark(scratch);
    layout_scratch(moa, work, activations, scratch);
    size_t own = arena_mark(scratch); // what follows is in use one after the other
    expert_exchange_layout_scratch(&moa->queries, work, scratch);
    arena_release(scratch, own);
    expert_exchange_layout_scratch(&moa->outputs, work, scratch);
    arena_release(scratch, own);
    router_layout_backward(&moa->router, work, scratch);
    arena_release(scratch, mark);
}

static bool check(const void *self, const Work *work, Error *err) {
    (void)work;
    const MoaLayer *moa = self;
    return dispatch_check(&moa->plan, err);
}

static void cost(const void *self, const Work *work, LayerCost *cost) {
    const MoaLayer *moa = self;
    AttentionShape s = heads_of(work);
    double width = (double)(s.d_head + s.d_value), K = (double)s.heads;
    double weights = (double)work->config->d_model * width * (K + 1);
    double keys = K * attention_mean_keys(work, moa->layer) * width;
    cost->flops_per_token += 2 * (weights + keys);
    cost->expert_flops += 2 * (double)work->config->d_model * width * K;
    router_cost(&moa->router, work, cost);
    dispatch_cost(&moa->plan, work, cost->sent_bytes);
    expert_exchange_cost(&moa->queries, work, cost->sent_bytes);
    expert_exchange_cost(&moa->outputs, work, cost->sent_bytes);
    cost->scratch.attention = s;
}

static void bound(const ModelConfig *config, int64_t layer, LayerBound *bound) {
    (void)layer;
    AttentionShape s = config->attention.shape;
    double D = (double)config->d_model, E = (double)config->attention.experts;
    double width = (double)(s.d_head + s.d_value), K = (double)s.heads;
    bound->parameters += (E + 1) * D * width + E * D + 2 * width; // with norms
    bound->kept += 5 * (K + 1) * width + 2 * K * D + E + 8 * K;
    if (bound->choices < K) bound->choices = K;
}

// ---- both passes --------------------------------------------------------------------------------

static AttentionRule rule_of(const MoaLayer *moa, const Work *work) {
    return attention_rule(work, heads_of(work), moa->layer, (Tensor){0});
}

// The slots of tokens one below the other, (N·K, ·).
static Tensor by_slot(Tensor x, int64_t K) {
    return tensor_reshape_2d(x, x.shape[0] * K, x.shape[1] / K);
}

// out[n·K + k] = the row of the choice among those that were sent.
static void gather_slots(const MoaLayer *moa, Work *work, Tensor out, Tensor sent_rows) {
    int64_t choices = tensor_elements(moa->plan.slot_row);
    gather_rows(work->dev, out, sent_rows, tensor_reshape_1d(moa->plan.slot_row, choices), choices,
                1);
}

static void project_kv(void *self, Work *work, Tensor x) {
    MoaLayer *moa = self;
    linear_forward(work, moa->kv, moa->scratch.kv_rows, x);
}

// Queries, keys and values of the tokens from `position` on.
static void project(MoaLayer *moa, Work *work, Statistics *stats, Tensor x, int64_t position) {
    AttentionShape s = heads_of(work);
    int64_t N = work->shape.N, queries = s.heads * s.d_head;
    Tensor rows = query_key_norm_input(&moa->norm, work, moa->qkv_rows);
    moa->x = x;
    router_route(&moa->router, work, stats, x);
    dispatch_plan(&moa->plan, work, moa->router.ids, moa->router.kept);
    expert_exchange_forward(&moa->queries, work, x, (Beside){project_kv, moa, x});
    gather_slots(moa, work, moa->scratch.q_rows, moa->queries.sent_out);
    copy_columns(work->dev, rows, tensor_reshape_2d(moa->scratch.q_rows, N, queries),
                 attention_columns(queries, 0, 0));
    copy_columns(work->dev, rows, moa->scratch.kv_rows,
                 attention_columns(s.d_head + s.d_value, queries, 0));
    query_key_norm_forward(&moa->norm, work, moa->qkv_rows);
    positions_rotate(work->positions, moa->positions, work, moa->qkv_rows, position, false);
}

// From the heads of the tokens' choices.
static void put_out(MoaLayer *moa, Work *work, Tensor out) {
    expert_exchange_forward(&moa->outputs, work, by_slot(moa->heads, heads_of(work).heads),
                            (Beside){0});
    combine_forward(work->dev, out, moa->outputs.sent_out, moa->plan.slot_row, moa->router.scaled);
}

static void forward(void *self, Work *work, Statistics *stats, Tensor out, Tensor x) {
    MoaLayer *moa = self;
    project(moa, work, stats, x, 0);
    digest_part(work, "qkv", moa->qkv_rows);
    attention_forward(work->dev, moa->heads, moa->lse, (Tensor){0}, moa->qkv_rows,
                      rule_of(moa, work));
    digest_part(work, "heads", moa->heads);
    put_out(moa, work, out);
}

static void backward_kv(void *self, Work *work, Tensor dkv) {
    MoaLayer *moa = self;
    linear_backward(work, moa->kv, moa->scratch.dx, dkv, moa->x);
}

static void backward(void *self, Work *work, Tensor dx, Tensor dout) {
    MoaLayer *moa = self;
    AttentionShape s = heads_of(work);
    int64_t N = work->shape.N, queries = s.heads * s.d_head;
    Tensor none = {0}, dheads = moa->scratch.dheads, dqkv = moa->scratch.dqkv;
    Tensor dq = moa->scratch.q_rows, dkv = moa->scratch.kv_rows, sent = moa->outputs.sent_out;
    combine_backward(work->dev, sent, moa->scratch.dweights, dout, sent, moa->plan.slot_row, none,
                     moa->router.scaled);
    gather_slots(moa, work, by_slot(dheads, s.heads),
                 expert_exchange_backward(&moa->outputs, work, (Beside){0}));
    digest_part(work, "heads", dheads);
    attention_backward(work->dev, dqkv, none, dheads, moa->qkv_rows, moa->heads, moa->lse,
                       rule_of(moa, work));
    positions_rotate(work->positions, moa->positions, work, dqkv, 0, true);
    query_key_norm_backward(&moa->norm, work, dqkv);
    digest_part(work, "qkv", dqkv);
    copy_columns(work->dev, tensor_reshape_2d(dq, N, queries), dqkv,
                 attention_columns(queries, 0, 0));
    copy_columns(work->dev, dkv, dqkv, attention_columns(s.d_head + s.d_value, 0, queries));
    dispatch_gather(&moa->plan, work, moa->queries.sent_out, dq);
    Tensor dsent = expert_exchange_backward(&moa->queries, work, (Beside){backward_kv, moa, dkv});
    combine_forward(work->dev, dx, dsent, moa->plan.slot_row, none);
    add(work->dev, dx, dx, moa->scratch.dx);
    router_choose_backward(&moa->router, work, dx, moa->scratch.dweights);
}

static void after_step(void *self, Work *work, const Statistics *stats) {
    MoaLayer *moa = self;
    router_after_step(&moa->router, work, stats);
}

static void decode(void *self, Work *work, Tensor out, Tensor x, Tensor cache, int64_t position) {
    MoaLayer *moa = self;
    AttentionShape s = heads_of(work);
    project(moa, work, NULL, x, position);
    copy_columns(work->dev, tensor_rows(cache, position, work->shape.N), moa->qkv_rows,
                 attention_columns(attention_kv_width(s), 0, s.heads * s.d_head));
    attention_decode(work->dev, moa->heads, moa->qkv_rows, cache, rule_of(moa, work), position);
    put_out(moa, work, out);
}

static int64_t cache_width(const void *self, const Work *work) {
    (void)self;
    return attention_kv_width(heads_of(work));
}

const LayerKind MOA = {
    .state_bytes = sizeof(MoaLayer),
    .bound = bound,
    .experts = experts,
    .experts_name = "attention.experts",
    .check_device = check_device,
    .declare = declare,
    .layout = layout,
    .check = check,
    .cost = cost,
    .forward = forward,
    .backward = backward,
    .after_step = after_step,
    .decode = decode,
    .cache_width = cache_width,
};
