#include "model/router.h"

#include <string.h>

#include "model/linear.h"

// Parts over which f and P of the balance loss are taken: this rank's sequences or its shards.
static int64_t balance_parts(const Work *work) {
    return work->config->moe.balance_scope == BALANCE_SEQUENCE ? work->B : work->shards;
}

static int64_t routing_groups(const Work *work) {
    return work->config->moe.routing_group == GROUP_SEQUENCE ? work->B : work->shards;
}

void router_declare(Router *router, Work *work, int64_t layer, int64_t moe_layer) {
    const ModelConfig *config = work->config;
    router->layer = layer;
    router->moe_layer = moe_layer;
    router->weight = param_add(work->params, PARAM_DENSE, INIT_NORMAL, (float)config->init_std,
                               true, 2, (int64_t[]){config->moe.experts, config->d_model},
                               "layers.%lld.moe.router", (long long)layer);
}

void router_layout(Router *router, Work *work, Arena *activations, Arena *scratch) {
    const MoeConfig *moe = &work->config->moe;
    int64_t N = work->N, E = moe->experts, K = moe->top_k, parts = balance_parts(work);
    router->logits = arena_2d(activations, F32, N, E);
    router->lse = arena_1d(activations, F32, N);
    router->ids = arena_2d(activations, I32, N, K);
    router->weights = arena_2d(activations, F32, N, K);
    router->scaled =
        moe->renormalize_after_drop ? arena_2d(activations, F32, N, K) : router->weights;
    router->kept = arena_2d(activations, U8, N, K);
    router->balance = arena_2d(activations, F32, parts, E);

    size_t mark = arena_mark(scratch);
    router->prob_sum = arena_2d(scratch, F64, parts, E);
    router->entropy_sum = arena_1d(scratch, F64, parts);
    router->lse2_sum = arena_1d(scratch, F64, parts);
    router->chosen = arena_2d(scratch, I32, parts, E);
    router->dropped = arena_2d(scratch, I32, parts, E);
    router->weight_mass = arena_2d(scratch, F64, parts, E);
    router->batch_chosen = arena_1d(scratch, I64, E);
    router->group_chosen = arena_2d(scratch, I32, routing_groups(work), E);
    router->group_dropped = arena_2d(scratch, I32, routing_groups(work), E);
    router->order = arena_1d(scratch, I32, N * K + E + 1);
    arena_release(scratch, mark);
}

void router_layout_backward(Router *router, Work *work, Arena *scratch) {
    size_t mark = arena_mark(scratch);
    router->dlogits = arena_2d(scratch, F32, work->N, work->config->moe.experts);
    router->dx = arena_2d(scratch, F32, work->N, work->config->d_model);
    arena_release(scratch, mark);
}

// 1 over the tokens of a step: what turns a sum over tokens into the mean that enters the loss.
static double per_step_token(const Work *work) {
    double micro_batch_tokens = (double)(work->N / work->shards * work->total_shards);
    return 1.0 / (micro_batch_tokens * (double)work->micro_batches);
}

// f_i, the share of choices that went to expert i before dropping, for each part; times E over the tokens of the step,
// so that its product with Σ P over the part's tokens is the part's share of E·Σ f_i·P_i. The gradient's coefficient
// is α times that; there is none through f (semantics: Switch, arXiv:2101.03961, eq. 4).
static void set_balance(Router *router, Work *work, Statistics *stats) {
    const MoeConfig *moe = &work->config->moe;
    int64_t E = moe->experts, K = moe->top_k, parts = balance_parts(work);
    const int32_t *chosen = tensor_i32(router->chosen);
    const double *prob_sum = tensor_f64(router->prob_sum);
    float *balance = tensor_f32(router->balance);
    int64_t *batch_chosen = tensor_i64(router->batch_chosen);
    double choices = (double)(K * (work->N / parts));
    if (moe->balance_scope == BALANCE_BATCH) {
        memset(batch_chosen, 0, (size_t)E * sizeof *batch_chosen);
        for (int64_t i = 0; i < parts * E; i++) batch_chosen[i % E] += chosen[i];
        all_reduce_sum(work->groups.world, router->batch_chosen, REDUCE_ANY_ORDER, (Tensor){0},
                       TRAFFIC_STATISTICS);
        choices *= (double)(parts * work->total_shards / work->shards);
    }
    for (int64_t p = 0; p < parts; p++) {
        double loss = 0;
        for (int64_t e = 0; e < E; e++) {
            int64_t count =
                moe->balance_scope == BALANCE_BATCH ? batch_chosen[e] : chosen[p * E + e];
            double weight = (double)E * per_step_token(work) * (double)count / choices;
            balance[p * E + e] = (float)(moe->balance_loss * weight);
            loss += weight * prob_sum[p * E + e];
        }
        *statistics_balance(stats, p / (parts / work->shards), router->moe_layer) += loss;
    }
}

static void add_statistics(Router *router, Work *work, Statistics *stats) {
    int64_t E = work->config->moe.experts, parts = balance_parts(work), layer = router->moe_layer;
    const double *mass = tensor_f64(router->weight_mass);
    const int32_t *chosen = tensor_i32(router->chosen), *dropped = tensor_i32(router->dropped);
    for (int64_t p = 0; p < parts; p++) {
        int64_t shard = p / (parts / work->shards);
        for (int64_t e = 0; e < E; e++) {
            statistics_weight_mass(stats, shard, layer)[e] += mass[p * E + e];
            statistics_routed(stats, layer)[e] += chosen[p * E + e] - dropped[p * E + e];
            statistics_dropped(stats, layer)[e] += dropped[p * E + e];
        }
        *statistics_z(stats, shard, layer) +=
            per_step_token(work) * tensor_f64(router->lse2_sum)[p];
        *statistics_entropy(stats, shard, layer) +=
            per_step_token(work) * tensor_f64(router->entropy_sum)[p];
    }
}

void router_choose(Router *router, Work *work, Statistics *stats, Tensor x) {
    const MoeConfig *moe = &work->config->moe;
    int64_t groups = routing_groups(work), parts = balance_parts(work);
    router->x = x;
    linear_forward(work, router->weight, router->logits, x);
    router_forward(work->dev, router->ids, router->weights, router->lse, router->prob_sum,
                   router->entropy_sum, router->lse2_sum, router->logits, moe->router, parts);
    RngStream stream = {work->seed, RNG_DROP, work->micro_batch, (uint32_t)router->layer};
    capacity_assign(work->dev, router->kept, router->group_chosen, router->group_dropped,
                    router->ids, router->weights, groups, moe_capacity(moe, work->N / groups),
                    moe->drop, stream, work->first_shard * (work->N / work->shards), router->order);
    if (moe->renormalize_after_drop)
        renormalize_forward(work->dev, router->scaled, router->weights, router->kept);
    if (!work->training) return;
    expert_load(work->dev, router->chosen, router->dropped, router->weight_mass, router->ids,
                router->scaled, router->kept);
    set_balance(router, work, stats);
    add_statistics(router, work, stats);
}

void router_choose_backward(Router *router, Work *work, Tensor dx, Tensor dscaled) {
    const MoeConfig *moe = &work->config->moe;
    if (moe->renormalize_after_drop)
        renormalize_backward(work->dev, dscaled, router->scaled, router->weights, router->kept);
    float z_scale = (float)(moe->z_loss * per_step_token(work));
    router_backward(work->dev, router->dlogits, dscaled, router->ids, router->weights,
                    router->logits, router->lse, moe->router, router->balance, z_scale,
                    balance_parts(work));
    linear_backward(work, router->weight, router->dx, router->dlogits, router->x);
    add(work->dev, dx, dx, router->dx);
}
