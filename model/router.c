#include "model/router.h"

#include "model/chooser.h"
#include "model/initialization.h"
#include "model/router_balance.h"
#include "model/routing_tape.h"

void router_declare(Router *router, MoeShape shape, Work *work, int64_t layer) {
    const ModelConfig *config = work->config;
    router->shape = shape;
    router->layer = layer;
    router->weight = router->bias = -1;
    if (!moe_has_gate(&config->moe)) return;
    Param weight = {.rank = 2,
                    .shape = {router->shape.experts, config->d_model},
                    .readout = true,
                    .init_std = config->init_std};
    init_linear(config, &weight);
    router->weight = param_add(work->params, weight, "layers.%lld.moe.router", (long long)layer);
    if (!moe_is_hashed(&config->moe, layer)) router_declare_bias(router, work);
}

void router_layout(Router *router, Work *work, Arena *activations, Arena *scratch) {
    const MoeConfig *moe = &work->config->moe;
    int64_t N = work->shape.N, E = router->shape.experts, K = router->shape.slots;
    router->logits = arena_2d(activations, F32, N, E);
    router->lse = arena_1d(activations, F32, N);
    router->ids = arena_2d(activations, I32, N, K);
    router->weights = arena_2d(activations, F32, N, K);
    router->scaled =
        moe->renormalize_after_drop ? arena_2d(activations, F32, N, K) : router->weights;
    router->kept = arena_2d(activations, U8, N, K);
    const Chooser *chooser = chooser_of(work, router->layer);
    if (chooser && chooser->layout) chooser->layout(router, work, activations);

    size_t mark = arena_mark(scratch);
    router_layout_sums(router, work, activations, scratch);
    if (work->storage != F32)
        router->scratch.x_f32 = arena_2d(scratch, F32, N, work->config->d_model);
    router->scratch.group_tokens_per_expert = arena_2d(scratch, I32, routing_groups(work), E);
    router->scratch.group_dropped = arena_2d(scratch, I32, routing_groups(work), E);
    router->scratch.order = arena_1d(scratch, I32, N * K + E + 1);
    arena_release(scratch, mark);
}

void router_layout_backward(Router *router, Work *work, Arena *scratch) {
    if (router->weight < 0) return;
    size_t mark = arena_mark(scratch);
    router->backward_scratch.dlogits = arena_2d(scratch, F32, work->shape.N, router->shape.experts);
    router->backward_scratch.dx = arena_2d(scratch, F32, work->shape.N, work->config->d_model);
    if (work->storage != F32)
        router->backward_scratch.x_f32 =
            arena_2d(scratch, F32, work->shape.N, work->config->d_model);
    arena_release(scratch, mark);
}

// ---- choosing ----------------------------------------------------------------------------------

// x in f32: scores decide, so they are not rounded to the storage type.
static Tensor in_f32(Work *work, Tensor wide, Tensor x) {
    if (x.dtype == F32) return x;
    convert(work->dev, wide, x);
    return wide;
}

static Routing routing_of(const Router *router) {
    return (Routing){router->ids, router->weights, router->lse};
}

// The logits z of the tokens x; zeros where there is no gate, so that all chosen weigh the same.
static void score(Router *router, Work *work, Tensor x) {
    if (router->weight < 0) {
        fill_zero(work->dev, router->logits);
        return;
    }
    matmul_forward(work->dev, router->logits, in_f32(work, router->scratch.x_f32, x),
                   as_matrix(work_value(work, router->weight)), work_dense_rows(work));
}

void router_route(Router *router, Work *work, Statistics *stats, Tensor x) {
    const MoeConfig *moe = &work->config->moe;
    router->x = x;
    score(router, work, x);
    const Chooser *chooser = chooser_of(work, router->layer);
    router->rule = moe->router;
    router->rule.given = chooser != NULL;
    if (chooser) chooser->choose(router, work);
    router_forward(work->dev, routing_of(router), router->scratch.sums, router->logits,
                   router_bias(router, work), router->rule);
    routing_tape_take(work, router->layer, router->ids);
    CapacityRule rule = {
        .capacity = moe_capacity(moe, router->shape, work->shape.N / routing_groups(work)),
        .policy = moe->router.kind == EXPERT_CHOICE ? DROP_PROBABILITY : moe->drop,
        .stream = work_stream(work, work->training ? RNG_DROP : RNG_EVALUATION_DROP, router->layer),
        .first_token = work->step.first_token,
    };
    capacity_assign(work->dev, router->kept, router->scratch.group_tokens_per_expert,
                    router->scratch.group_dropped, router->ids, router->weights, rule,
                    router->scratch.order);
    if (moe->renormalize_after_drop)
        renormalize_forward(work->dev, router->scaled, router->weights, router->kept);
    if (!work->training) {
        router_count_evaluation(router, work, stats);
        return;
    }
    expert_load(work->dev, router->scratch.sums, router->ids, router->scaled, router->kept,
                moe->router.kind == EXPERT_CHOICE);
    router_add_statistics(router, work, stats);
}

void router_choose_backward(Router *router, Work *work, Tensor dx, Tensor dscaled) {
    const MoeConfig *moe = &work->config->moe;
    if (router->weight < 0) return;
    if (moe->renormalize_after_drop)
        renormalize_backward(work->dev, dscaled, router->scaled, router->weights, router->kept);
    float z_scale = (float)(moe->z_loss * router_per_step_token(work));
    router_backward(work->dev, router->backward_scratch.dlogits, dscaled, routing_of(router),
                    router->logits, router->rule, router->balance, z_scale);
    Segments rows = work_dense_rows(work);
    matmul_backward_weight(work->dev, as_matrix(work_gradient(work, router->weight)),
                           router->backward_scratch.dlogits,
                           in_f32(work, router->backward_scratch.x_f32, router->x), rows);
    matmul_backward_input(work->dev, router->backward_scratch.dx, router->backward_scratch.dlogits,
                          as_matrix(work_value(work, router->weight)), rows);
    add(work->dev, dx, dx, router->backward_scratch.dx);
}
