#include "model/head_gate.h"

#include "model/dense_gradient.h"
#include "model/initialization.h"
#include "model/router_health.h"
#include "model/stream_digests.h"

static const RouterRule RULE = {.kind = SIGMOID, .alone = true, .scaling_factor = 1};

void head_gate_declare(HeadGate *gate, RouterPlace place, Work *work) {
    const ModelConfig *config = work->config;
    gate->place = place;
    gate->H = config->attention.shape.heads;
    gate->E = config->attention.experts;
    gate->k = config->attention.top_k;
    Param weight = {.rank = 2,
                    .shape = {gate->H * gate->E, config->d_model},
                    .readout = true,
                    .init_std = config->init_std};
    init_linear(config, &weight);
    gate->weight = param_add(work->params, weight, "%s", ROUTER_NAMES[place].params);
}

void head_gate_layout(HeadGate *gate, Work *work, Statistics *stats, int64_t layer,
                      Arena *activations) {
    int64_t rows = work->shape.N * gate->H, E = gate->E, k = gate->k;
    gate->logits = arena_2d(activations, F32, rows, E);
    gate->chosen = arena_2d(activations, I32, rows, k);
    gate->ids = arena_2d(activations, I32, work->shape.N, gate->H * k);
    gate->weights = arena_2d(activations, F32, rows, k);
    gate->lse = arena_1d(activations, F32, rows);
    gate->routed = statistics_counts(stats, ROUTER_NAMES[gate->place].routed, layer, gate->H * E);
    router_health_summarize(stats, gate->place, false);
    head_balance_layout(&gate->balance, gate->place, work, stats, layer, activations);
}

void head_gate_layout_scratch(HeadGate *gate, Work *work, Arena *scratch) {
    int64_t N = work->shape.N, parts = work->shape.shards, D = work->config->d_model;
    size_t mark = arena_mark(scratch);
    gate->scratch.sums = (RouterSums){.prob_sum = arena_2d(scratch, F64, parts, gate->E),
                                      .entropy_sum = arena_1d(scratch, F64, parts),
                                      .lse2_sum = arena_1d(scratch, F64, parts)};
    if (work->storage != F32) gate->scratch.x_f32 = arena_2d(scratch, F32, N, D);
    gate->scratch.dx = arena_2d(scratch, F32, N, D);
    gate->scratch.dlogits = arena_2d(scratch, F32, N * gate->H, gate->E);
    gate->scratch.nothing = arena_2d(scratch, F32, 1, gate->E);
    head_balance_layout_scratch(&gate->balance, work, scratch);
    arena_release(scratch, mark);
}

// Scores decide, so they are not rounded to the storage type.
static Tensor own_x(const HeadGate *gate, Work *work, Tensor x) {
    if (x.dtype == F32) return x;
    convert(work->dev, gate->scratch.x_f32, x);
    return gate->scratch.x_f32;
}

// Those of a token's heads beside one another.
static Tensor by_token(const HeadGate *gate, Tensor of_heads) {
    return tensor_reshape_2d(of_heads, of_heads.shape[0] / gate->H, gate->H * of_heads.shape[1]);
}

static Routing routing_of(const HeadGate *gate) {
    return (Routing){.ids = gate->chosen, .weights = gate->weights, .lse = gate->lse};
}

void head_gate_route(HeadGate *gate, Work *work, Statistics *stats, Tensor x) {
    matmul_forward(work->dev, by_token(gate, gate->logits), own_x(gate, work, x),
                   as_matrix(work_value(work, gate->weight)), work_dense_rows(work));
    router_forward(work->dev, routing_of(gate), gate->scratch.sums, gate->logits, (Tensor){0},
                   RULE);
    choices_of_heads(work->dev, gate->ids, gate->chosen, gate->E);
    const char *name = ROUTER_NAMES[gate->place].params;
    digest_part(work, name, gate->logits);
    digest_part(work, name, gate->ids);
    digest_part(work, name, gate->weights);
    int64_t tokens = work->training ? work->shape.N : work->step.counted_tokens;
    if (tokens > 0)
        count_ids(work->dev, statistics_count_range(stats, gate->routed, gate->H * gate->E),
                  tensor_rows(gate->ids, 0, tokens), (Tensor){0});
    if (work->training)
        head_balance_add(&gate->balance, work, stats, gate->ids, by_token(gate, gate->weights));
}

void head_gate_backward(HeadGate *gate, Work *work, Tensor dx, Tensor dweights, Tensor x) {
    Tensor dlogits = gate->scratch.dlogits, own_dx = gate->scratch.dx;
    head_balance_backward(&gate->balance, work, by_token(gate, dweights), gate->ids);
    fill_zero(work->dev, gate->scratch.nothing);
    router_backward(work->dev, dlogits, dweights, routing_of(gate), gate->logits, RULE,
                    gate->scratch.nothing, 0);
    dlogits = by_token(gate, dlogits);
    weight_gradient(work, gate->weight, OWN_GRADIENT, dlogits, own_x(gate, work, x));
    matmul_backward_input(work->dev, own_dx, dlogits, as_matrix(work_value(work, gate->weight)),
                          work_dense_rows(work));
    add(work->dev, dx, dx, own_dx);
}
