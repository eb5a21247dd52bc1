#include "model/switchhead.h"

#include <string.h>

#include "kernels/integers.h"
#include "model/attention.h"
#include "model/stream_digests.h"

static int64_t experts(const ModelConfig *config, int64_t layer) {
    (void)layer;
    return config->attention.shape.heads * config->attention.experts;
}

static AttentionShape heads_of(const Work *work) {
    return work->config->attention.shape;
}
static int64_t choices_of(const ModelConfig *config) {
    return config->attention.shape.heads * config->attention.top_k;
}

static bool check_device(const ModelConfig *config, int64_t layer, const Device *dev, Error *err) {
    return attention_check_device(config, layer, dev, err) &&
           device_check_limit(dev, "attention.heads * attention.experts", experts(config, layer),
                              dev->limits.experts, err) &&
           device_check_limit(dev, "attention.heads * attention.top_k", choices_of(config),
                              dev->limits.top_k, err);
}

// ---- layout -------------------------------------------------------------------------------------

static ExpertPlaces *places_of(Work *work, int64_t layer, RouterPlace router) {
    return placement_table(work->placement, layer, router, experts(work->config, layer));
}

static void declare(void *self, Work *work, int64_t layer) {
    SwitchHeadLayer *s = self;
    const ModelConfig *config = work->config;
    AttentionShape shape = heads_of(work);
    int64_t D = config->d_model, queries = shape.heads * shape.d_head;
    const BiasFacts *bias = &BIASES[config->bias];
    Param expert = {.kind = PARAM_EXPERT,
                    .rank = 3,
                    .shape = {experts(config, layer), shape.d_value, D},
                    .group = GROUP_HIDDEN,
                    .init_std = config->init_std,
                    .active = (double)config->attention.top_k / (double)config->attention.experts};
    s->layer = layer;
    s->positions = model_positions(config, layer);
    s->qk = linear_declare(work,
                           (Param){.rank = 2,
                                   .shape = {2 * queries, D},
                                   .fused = {queries, queries},
                                   .group = GROUP_HIDDEN,
                                   .init_std = config->init_std},
                           bias->qkv, "attention.qk");
    query_key_norm_declare(&s->norm, work);
    head_gate_declare(&s->values.gate, ROUTER_OF_VALUES, work);
    s->values.places = places_of(work, layer, ROUTER_OF_VALUES);
    expert.places = s->values.places;
    s->values.weights = linear_declare(work, expert, bias->qkv, "attention.experts.value");
    head_gate_declare(&s->outputs.gate, ROUTER_OF_OUTPUTS, work);
    s->outputs.places = places_of(work, layer, ROUTER_OF_OUTPUTS);
    expert.places = s->outputs.places;
    expert.shape[1] = D;
    expert.shape[2] = shape.d_value;
    expert.init_std = model_residual_std(config);
    s->outputs.weights = linear_declare(work, expert, bias->output, "attention.experts.output");
}

static void layout_experts(HeadExperts *of, Work *work, Statistics *stats, int64_t layer,
                           ExpertTraffic traffic, Arena *activations) {
    int64_t all = of->gate.H * of->gate.E;
    head_gate_layout(&of->gate, work, stats, layer, activations);
    dispatch_layout(&of->plan,
                    (DispatchShape){.layer = layer,
                                    .tokens = work->shape.N,
                                    .places = of->places,
                                    .K = of->gate.H * of->gate.k,
                                    .choosable = all,
                                    .groups = work->shape.shards,
                                    .capacity = -1},
                    work, activations);
    expert_exchange_layout(&of->exchange, traffic, work, activations);
}

static void layout_scratch(SwitchHeadLayer *s, Work *work, Arena *activations, Arena *scratch) {
    AttentionShape shape = heads_of(work);
    DType stored = work->storage;
    int64_t N = work->shape.N, H = shape.heads;
    HeadExperts *of[] = {&s->values, &s->outputs};
    query_key_norm_layout(&s->norm, work, activations, scratch);
    s->scratch.qk_rows = arena_2d(scratch, stored, N, 2 * H * shape.d_head);
    s->scratch.v_rows = arena_2d(scratch, stored, N * H, shape.d_value);
    s->scratch.dheads = arena_2d(scratch, stored, N, H * shape.d_value);
    s->scratch.dqkv = arena_2d(scratch, stored, N, attention_qkv_width(shape));
    s->scratch.dx = arena_2d(scratch, stored, N, work->config->d_model);
    for (int i = 0; i < 2; i++) of[i]->dgates = arena_2d(scratch, F32, N * H, of[i]->gate.k);
    for (int i = 0; i < 2; i++) { // what follows is in use one after the other
        size_t mark = arena_mark(scratch);
        head_gate_layout_scratch(&of[i]->gate, work, scratch);
        expert_exchange_layout_scratch(&of[i]->exchange, work, scratch);
        arena_release(scratch, mark);
    }
}

static void layout(void *self, Work *work, Statistics *stats, Arena *activations, Arena *scratch) {
    SwitchHeadLayer *s = self;
    AttentionShape shape = heads_of(work);
    int64_t N = work->shape.N, H = shape.heads, D = work->config->d_model;
    layout_experts(&s->values, work, stats, s->layer,
                   (ExpertTraffic){&s->values.plan, &LINEAR_EXPERTS, &s->values.weights, D,
                                   shape.d_value, "values.dispatched", "values.returned"},
                   activations);
    layout_experts(&s->outputs, work, stats, s->layer,
                   (ExpertTraffic){&s->outputs.plan, &LINEAR_EXPERTS, &s->outputs.weights,
                                   shape.d_value, D, "outputs.dispatched", "outputs.returned"},
                   activations);
    s->qkv_rows = arena_2d(activations, work->storage, N, attention_qkv_width(shape));
    s->heads = arena_2d(activations, work->storage, N, H * shape.d_value);
    s->lse = arena_2d(activations, F32, N, H);
    s->kept = arena_2d(activations, U8, N, choices_of(work->config));
    s->host_kept = arena_mirror(work->host, s->kept);
    s->prepared_for = -1;
    size_t mark = arena_mark(scratch);
    layout_scratch(s, work, activations, scratch);
    arena_release(scratch, mark);
}

static bool check(const void *self, const Work *work, Error *err) {
    (void)work;
    const SwitchHeadLayer *s = self;
    return dispatch_check(&s->values.plan, err);
}

static void cost(const void *self, const Work *work, LayerCost *cost) {
    const SwitchHeadLayer *s = self;
    const ModelConfig *config = work->config;
    AttentionShape shape = heads_of(work);
    double D = (double)config->d_model, H = (double)shape.heads, d = (double)shape.d_head;
    double gates = 2 * (double)experts(config, s->layer);
    double work_of = 2 * (double)choices_of(config) * (double)shape.d_value;
    double keys = H * attention_mean_keys(work, s->layer) * (double)(shape.d_head + shape.d_value);
    cost->flops_per_token += 2 * (D * (2 * H * d + work_of + gates) + keys);
    cost->expert_flops += 2 * D * work_of;
    const HeadExperts *of[] = {&s->values, &s->outputs};
    for (int i = 0; i < 2; i++) {
        dispatch_cost(&of[i]->plan, work, cost->sent_bytes);
        expert_exchange_cost(&of[i]->exchange, work, cost->sent_bytes);
        cost->sent_bytes[TRAFFIC_STATISTICS] +=
            (double)work->shape.micro_batches * head_balance_sent_bytes(&of[i]->gate.balance, work);
    }
    ScratchShape *scratch = &cost->scratch;
    scratch->E = larger(scratch->E, experts(config, s->layer));
    scratch->K = larger(scratch->K, choices_of(config));
    scratch->parts = larger(scratch->parts, work->shape.expert_parts);
    scratch->attention = shape;
}

static void bound(const ModelConfig *config, int64_t layer, LayerBound *bound) {
    AttentionShape s = config->attention.shape;
    double D = (double)config->d_model, E = (double)experts(config, layer);
    double H = (double)s.heads, width = (double)(s.d_head + s.d_value);
    double choices = (double)choices_of(config);
    bound->parameters += 2 * E * D * (double)s.d_value + 2 * E * D + 2 * H * D * width + H * width;
    bound->kept += 8 * H * width + 2 * choices * (D + (double)s.d_value) + 2 * E + 16 * choices;
    if (bound->choices < choices) bound->choices = choices;
}

// ---- both passes --------------------------------------------------------------------------------

// What no step changes.
static void prepare(SwitchHeadLayer *s, Work *work) {
    if (s->prepared_for == work->memory_uses) return;
    memset(s->host_kept.data, 1, tensor_bytes(s->host_kept));
    device_upload(work->dev, s->kept, s->host_kept);
    s->prepared_for = work->memory_uses;
}

static AttentionRule rule_of(const SwitchHeadLayer *s, const Work *work) {
    return attention_rule(work, heads_of(work), s->layer, (Tensor){0});
}

// Of tokens (N, H·…), one row a head (N·H, …); and back.
static Tensor by_head(Tensor x, int64_t H) {
    return tensor_reshape_2d(x, x.shape[0] * H, x.shape[1] / H);
}
static Tensor by_token(Tensor x, int64_t H) {
    return tensor_reshape_2d(x, x.shape[0] / H, x.shape[1] * H);
}

static void project_qk(void *self, Work *work, Tensor x) {
    SwitchHeadLayer *s = self;
    linear_forward(work, s->qk, s->scratch.qk_rows, x);
}

// Queries, keys and values of the tokens from `position` on.
static void project(SwitchHeadLayer *s, Work *work, Statistics *stats, Tensor x, int64_t position) {
    AttentionShape shape = heads_of(work);
    HeadExperts *values = &s->values;
    int64_t H = shape.heads, turned = 2 * H * shape.d_head;
    Tensor rows = query_key_norm_input(&s->norm, work, s->qkv_rows);
    s->x = x;
    prepare(s, work);
    head_gate_route(&values->gate, work, stats, x);
    dispatch_plan(&values->plan, work, values->gate.ids, s->kept);
    expert_exchange_forward(&values->exchange, work, x, (Beside){project_qk, s, x});
    combine_forward(work->dev, s->scratch.v_rows, values->exchange.sent_out,
                    by_head(values->plan.slot_row, H), values->gate.weights);
    copy_columns(work->dev, rows, s->scratch.qk_rows, attention_columns(turned, 0, 0));
    copy_columns(work->dev, rows, by_token(s->scratch.v_rows, H),
                 attention_columns(H * shape.d_value, turned, 0));
    query_key_norm_forward(&s->norm, work, s->qkv_rows);
    positions_rotate(work->positions, s->positions, work, s->qkv_rows, position, false);
}

static void put_out(SwitchHeadLayer *s, Work *work, Statistics *stats, Tensor out, Tensor x) {
    HeadExperts *outputs = &s->outputs;
    int64_t H = heads_of(work).heads;
    head_gate_route(&outputs->gate, work, stats, x);
    dispatch_plan(&outputs->plan, work, outputs->gate.ids, s->kept);
    expert_exchange_forward(&outputs->exchange, work, by_head(s->heads, H), (Beside){0});
    combine_forward(work->dev, out, outputs->exchange.sent_out, outputs->plan.slot_row,
                    by_token(outputs->gate.weights, H));
}

static void forward(void *self, Work *work, Statistics *stats, Tensor out, Tensor x) {
    SwitchHeadLayer *s = self;
    project(s, work, stats, x, 0);
    digest_part(work, "qkv", s->qkv_rows);
    attention_forward(work->dev, s->heads, s->lse, (Tensor){0}, s->qkv_rows, rule_of(s, work));
    digest_part(work, "heads", s->heads);
    put_out(s, work, stats, out, x);
}

static void backward_qk(void *self, Work *work, Tensor dqk) {
    SwitchHeadLayer *s = self;
    linear_backward(work, s->qk, s->scratch.dx, dqk, s->x);
}

static void backward(void *self, Work *work, Tensor dx, Tensor dout) {
    SwitchHeadLayer *s = self;
    AttentionShape shape = heads_of(work);
    HeadExperts *values = &s->values, *outputs = &s->outputs;
    int64_t H = shape.heads, turned = 2 * H * shape.d_head;
    Tensor none = {0}, dheads = s->scratch.dheads, dqkv = s->scratch.dqkv;
    Tensor dqk = s->scratch.qk_rows, dv = s->scratch.v_rows;
    Tensor made = outputs->exchange.sent_out;
    combine_backward(work->dev, made, by_token(outputs->dgates, H), dout, made,
                     outputs->plan.slot_row, none, by_token(outputs->gate.weights, H));
    Tensor dsent = expert_exchange_backward(&outputs->exchange, work, (Beside){0});
    combine_forward(work->dev, by_head(dheads, H), dsent, by_head(outputs->plan.slot_row, H), none);
    digest_part(work, "heads", dheads);
    attention_backward(work->dev, dqkv, none, dheads, s->qkv_rows, s->heads, s->lse,
                       rule_of(s, work));
    positions_rotate(work->positions, s->positions, work, dqkv, 0, true);
    query_key_norm_backward(&s->norm, work, dqkv);
    digest_part(work, "qkv", dqkv);
    copy_columns(work->dev, dqk, dqkv, attention_columns(turned, 0, 0));
    copy_columns(work->dev, by_token(dv, H), dqkv, attention_columns(H * shape.d_value, 0, turned));
    made = values->exchange.sent_out;
    combine_backward(work->dev, made, values->dgates, dv, made, by_head(values->plan.slot_row, H),
                     none, values->gate.weights);
    dsent = expert_exchange_backward(&values->exchange, work, (Beside){backward_qk, s, dqk});
    combine_forward(work->dev, dx, dsent, values->plan.slot_row, none);
    add(work->dev, dx, dx, s->scratch.dx);
    head_gate_backward(&values->gate, work, dx, values->dgates, s->x);
    head_gate_backward(&outputs->gate, work, dx, outputs->dgates, s->x);
}

static void decode(void *self, Work *work, Tensor out, Tensor x, Tensor cache, int64_t position) {
    SwitchHeadLayer *s = self;
    AttentionShape shape = heads_of(work);
    project(s, work, NULL, x, position);
    copy_columns(work->dev, tensor_rows(cache, position, work->shape.N), s->qkv_rows,
                 attention_columns(attention_kv_width(shape), 0, shape.heads * shape.d_head));
    attention_decode(work->dev, s->heads, s->qkv_rows, cache, rule_of(s, work), position);
    put_out(s, work, NULL, out, x);
}

static int64_t cache_width(const void *self, const Work *work) {
    (void)self;
    return attention_kv_width(heads_of(work));
}

const LayerKind SWITCHHEAD = {
    .state_bytes = sizeof(SwitchHeadLayer),
    .bound = bound,
    .experts = experts,
    .experts_name = "attention.heads * attention.experts",
    .check_device = check_device,
    .declare = declare,
    .layout = layout,
    .check = check,
    .cost = cost,
    .forward = forward,
    .backward = backward,
    .decode = decode,
    .cache_width = cache_width,
};
