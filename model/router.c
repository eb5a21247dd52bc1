#include "model/router.h"

#include "kernels/integers.h"
#include "model/chooser.h"
#include "model/dense_gradient.h"
#include "model/initialization.h"
#include "model/router_balance.h"
#include "model/router_bias.h"
#include "model/router_variation.h"
#include "model/routing_tape.h"
#include "model/stream_digests.h"

static bool is_of_mixer(const Router *router) {
    return router->place == ROUTER_OF_MIXER;
}

void router_declare(Router *router, RouterPlace place, MoeShape shape, Work *work, int64_t layer) {
    const ModelConfig *config = work->config;
    const char *of = ROUTER_NAMES[place].params;
    router->place = place;
    router->shape = shape;
    router->layer = layer;
    double scale = config->moe.router_init_scale; // 0, where nobody gave it: 1
    router->weight = router->gate_bias = router->bias = router->noise = -1;
    if (!moe_has_gate(&config->moe)) return;
    Param weight = {.rank = 2,
                    .shape = {router->shape.scored, config->d_model},
                    .readout = true,
                    .init_std = config->init_std};
    init_linear(config, &weight);
    if (scale > 0) weight.init_std *= scale;
    router->weight = param_add(work->params, weight, "%s.router", of);
    if (config->moe.gate_bias)
        router->gate_bias = param_add(work->params,
                                      (Param){.rank = 1,
                                              .shape = {router->shape.scored},
                                              .init = INIT_ZEROS,
                                              .group = GROUP_NO_DECAY},
                                      "%s.router.bias", of);
    bool hashed = moe_is_hashed(&config->moe, layer) && !is_of_mixer(router);
    if (config->moe.router.kind == NOISY_TOPK && !hashed)
        router->noise = param_add(work->params, weight, "%s.router_noise", of);
    if (!hashed) router_declare_bias(router, work);
}

// Whether the router sees another x than the experts: wider numbers, or jitter.
static bool has_own_x(const Work *work) {
    return work->storage != F32 || (work->training && work->config->moe.jitter > 0);
}
static bool renormalizes(const Router *router, const Work *work) {
    return work->config->moe.renormalize_after_drop && !is_of_mixer(router);
}
// Who chooses instead of the scores; NULL: they do.
static const Chooser *chooser(const Router *router, const Work *work) {
    return is_of_mixer(router) ? NULL : chooser_of(work, router->layer);
}
static bool is_noisy(const Router *router, const Work *work) {
    return router->noise >= 0 && (work->training || work->config->moe.noise_in_evaluation);
}

void router_layout(Router *router, Work *work, Arena *activations, Arena *scratch) {
    const MoeConfig *moe = &work->config->moe;
    int64_t N = work->shape.N, E = router->shape.scored, K = router->shape.slots;
    router->logits = arena_2d(activations, F32, N, E);
    router->lse = arena_1d(activations, F32, N);
    router->raw_logits = router->logits;
    router->raw_lse = router->lse;
    if (is_noisy(router, work)) {
        router->noise_scale = arena_2d(activations, F32, N, E);
        router->raw_logits = arena_2d(activations, F32, N, E);
        router->raw_lse = arena_1d(activations, F32, N);
    }
    router->ids = arena_2d(activations, I32, N, K);
    router->weights = arena_2d(activations, F32, N, K);
    router->scaled =
        renormalizes(router, work) ? arena_2d(activations, F32, N, K) : router->weights;
    router->kept = arena_2d(activations, U8, N, K);
    router->travels = router->shape.zero > 0 ? arena_2d(activations, U8, N, K) : router->kept;
    router_layout_bias(router, work, activations);
    const Chooser *other = chooser(router, work);
    if (other && other->layout) other->layout(router, work, activations);

    size_t mark = arena_mark(scratch);
    router_layout_sums(router, work, activations, scratch);
    router->scratch.squares = arena_1d(scratch, F32, N);
    if (has_own_x(work)) router->scratch.x_f32 = arena_2d(scratch, F32, N, work->config->d_model);
    if (work->training && moe->router.kind == SINKHORN) {
        int64_t parts = router->scratch.sums.prob_sum.shape[0];
        router->scratch.sinkhorn = arena_2d(scratch, F32, parts, E);
        router->scratch.sinkhorn_a = arena_2d(scratch, F32, N, E);
        router->scratch.sinkhorn_c = arena_1d(scratch, F64, N);
    }
    router->scratch.group_tokens_per_expert = arena_2d(scratch, I32, routing_groups(work), E);
    router->scratch.group_dropped = arena_2d(scratch, I32, routing_groups(work), E);
    router->scratch.order = arena_1d(scratch, I32, N * K + E + 1);
    bool of_documents = moe->routing_group == GROUP_DOCUMENT && !is_of_mixer(router);
    if (of_documents && moe->capacity_factor.numerator > 0) {
        router->scratch.capacities = arena_1d(scratch, I32, work->shape.T + 1);
        router->host_capacities = arena_mirror(work->host, router->scratch.capacities);
    }
    arena_release(scratch, mark);
}

void router_layout_backward(Router *router, Work *work, Arena *scratch) {
    if (router->weight < 0) return;
    size_t mark = arena_mark(scratch);
    router->backward_scratch.dlogits = arena_2d(scratch, F32, work->shape.N, router->shape.scored);
    router->backward_scratch.dx = arena_2d(scratch, F32, work->shape.N, work->config->d_model);
    if (has_own_x(work))
        router->backward_scratch.x_f32 =
            arena_2d(scratch, F32, work->shape.N, work->config->d_model);
    if (is_noisy(router, work)) {
        router->backward_scratch.dscale =
            arena_2d(scratch, F32, work->shape.N, router->shape.scored);
        router->backward_scratch.dx_noise =
            arena_2d(scratch, F32, work->shape.N, work->config->d_model);
    }
    arena_release(scratch, mark);
}

void router_cost(const Router *router, const Work *work, LayerCost *cost) {
    double micro = (double)work->shape.micro_batches, gate = (double)router->shape.scored;
    if (router->noise >= 0) gate *= 2;
    if (router->weight >= 0) cost->flops_per_token += 2 * (double)work->config->d_model * gate;
    cost->sent_bytes[TRAFFIC_STATISTICS] += micro * router_balance_sent_bytes(router, work);
    cost->sent_bytes[TRAFFIC_STATISTICS] += router_bias_sent_bytes(router, work);
    ScratchShape *scratch = &cost->scratch;
    scratch->E = larger(scratch->E, router->shape.scored);
    scratch->K = larger(scratch->K, router->shape.slots);
    scratch->parts = larger(scratch->parts, work->shape.expert_parts);
    scratch->group = larger(scratch->group, work->shape.N / routing_groups(work));
}

// ---- choosing ----------------------------------------------------------------------------------

// The routers of mixers are counted behind those of feed-forwards.
int64_t router_stream(const Router *router, const ModelConfig *config) {
    return router->layer + (is_of_mixer(router) ? model_blocks(config) : 0);
}

static RouterNoise numbers(const Router *router, const Work *work, RngPurpose purpose) {
    return (RouterNoise){work_stream(work, purpose, router_stream(router, work->config)),
                         work->step.first_token};
}
static RouterNoise noise_of(const Router *router, const Work *work) {
    return numbers(router, work, work->training ? RNG_ROUTER_NOISE : RNG_EVALUATION_NOISE);
}

// out = in times this step's jitter, if there is any: x on its way in, or its gradient on its way
// out.
static Tensor jittered(const Router *router, Work *work, Tensor out, Tensor in) {
    double amount = work->config->moe.jitter;
    if (!work->training || amount <= 0) return in;
    router_jitter(work->dev, out, in, (float)amount, numbers(router, work, RNG_JITTER));
    return out;
}

// What the router sees of x, in f32: scores decide, so they are not rounded to the storage type.
static Tensor own_x(const Router *router, Work *work, Tensor wide, Tensor x) {
    if (x.dtype == F32) return jittered(router, work, wide, x);
    convert(work->dev, wide, x);
    return jittered(router, work, wide, wide);
}

static Routing routing_of(const Router *router) {
    return (Routing){.ids = router->ids, .weights = router->weights, .lse = router->lse};
}

// What is added when experts are chosen; data NULL: nothing.
static Tensor choice_bias(const Router *router, Work *work) {
    Tensor bias = router->scratch.sinkhorn;
    if (!work->training || router->rule.kind != SINKHORN || router->rule.given)
        return router_bias(router, work);
    sinkhorn_bias(work->dev, bias, router->logits, router->scratch.sinkhorn_a,
                  router->scratch.sinkhorn_c, work->config->moe.sinkhorn_iterations);
    return bias;
}

// The logits z of the tokens x, with noise; zeros where there is no gate, so that all chosen weigh
// the same.
static void score(Router *router, Work *work, Tensor x) {
    if (router->weight < 0) {
        fill_zero(work->dev, router->logits);
        return;
    }
    Tensor own = own_x(router, work, router->scratch.x_f32, x);
    Segments rows = work_dense_rows(work);
    matmul_forward(work->dev, router->raw_logits, own, as_matrix(work_value(work, router->weight)),
                   rows);
    if (router->gate_bias >= 0)
        bias_forward(work->dev, router->raw_logits, as_row(work_value(work, router->gate_bias)),
                     rows);
    if (!is_noisy(router, work)) return;
    matmul_forward(work->dev, router->noise_scale, own, as_matrix(work_value(work, router->noise)),
                   rows);
    router_noise_forward(work->dev, router->logits, router->raw_logits, router->noise_scale,
                         noise_of(router, work));
}

// Weighs the logits and chooses by them, where nothing else has chosen; the sums that z-loss and
// its like are of are those of the raw logits.
static void weigh(Router *router, Work *work) {
    Routing routing = routing_of(router);
    bool noisy = is_noisy(router, work);
    if (!noisy) routing.squares = router->scratch.squares;
    router_forward(work->dev, routing, router->scratch.sums, router->logits,
                   choice_bias(router, work), router->rule);
    if (noisy)
        logit_sums(work->dev, router->raw_lse, router->scratch.squares,
                   router->scratch.sums.lse2_sum, router->raw_logits);
}

// The choices whose weights renormalize_after_drop makes sum to 1: all that add something.
static Tensor survivors(const Router *router, const Work *work) {
    return work->config->moe.zero_kind == ZERO_NULL ? router->travels : router->kept;
}

// Of the documents of sequences, where they are known and experts get full; otherwise of groups.
static void assign_capacity(Router *router, Work *work, CapacityRule rule) {
    Tensor counts = router->scratch.group_tokens_per_expert,
           dropped = router->scratch.group_dropped;
    Tensor positions = work->step.positions, capacities = router->scratch.capacities;
    if (!capacities.data || !positions.data) {
        capacity_assign(work->dev, router->kept, counts, dropped, router->ids, router->weights,
                        rule, router->scratch.order);
        return;
    }
    int32_t *of_length = tensor_i32(router->host_capacities);
    for (int64_t n = 0; n <= work->shape.T; n++)
        of_length[n] = n == 0 ? 0 : (int32_t)moe_capacity(&work->config->moe, router->shape, n);
    device_upload(work->dev, capacities, router->host_capacities);
    capacity_assign_documents(work->dev, router->kept, counts, dropped, router->ids,
                              router->weights, positions, capacities, rule, router->scratch.order);
}

// -1: any number.
static int64_t capacity_of(const Router *router, const Work *work) {
    if (is_of_mixer(router)) return -1;
    return moe_capacity(&work->config->moe, router->shape, work->shape.N / routing_groups(work));
}

// Drops what exceeds an expert's capacity.
static void drop(Router *router, Work *work) {
    const MoeConfig *moe = &work->config->moe;
    CapacityRule rule = {
        .capacity = capacity_of(router, work),
        .policy = moe->router.kind == EXPERT_CHOICE ? DROP_PROBABILITY : moe->drop,
        .stream = work_stream(work, work->training ? RNG_DROP : RNG_EVALUATION_DROP, router->layer),
        .first_token = work->step.first_token,
    };
    assign_capacity(router, work, rule);
}

void router_route(Router *router, Work *work, Statistics *stats, Tensor x) {
    const MoeConfig *moe = &work->config->moe;
    router->x = x;
    score(router, work, x);
    const Chooser *other = chooser(router, work);
    router->rule = moe->router;
    router->rule.given = other != NULL;
    if (other) other->choose(router, work);
    weigh(router, work);
    if (!is_of_mixer(router)) routing_tape_take(work, router->layer, router->ids);
    drop(router, work);
    if (router->shape.zero > 0)
        keep_zero_choices(work->dev, router->kept, router->travels, router->ids,
                          router->shape.experts);
    if (renormalizes(router, work))
        renormalize_forward(work->dev, router->scaled, router->weights, survivors(router, work));
    digest_part(work, "router.logits", router->logits);
    digest_part(work, "router.choice", router->ids);
    digest_part(work, "router.choice", router->scaled);
    digest_part(work, "router.choice", router->kept);
    if (!work->training) {
        router_count_evaluation(router, work, stats);
        return;
    }
    router_watch_scores(router, work);
    expert_load(work->dev, router->scratch.sums, router->ids, router->scaled, router->kept,
                moe->router.kind == EXPERT_CHOICE);
    router_add_statistics(router, work, stats);
}

// From the gradient of the noisy logits in dlogits to those of the raw ones, there too, and of the
// noise's scale.
static void noise_backward(const Router *router, Work *work, float z_scale) {
    Tensor dlogits = router->backward_scratch.dlogits, dscale = router->backward_scratch.dscale;
    router_noise_backward(work->dev, dscale, dlogits, router->noise_scale, noise_of(router, work));
    router_noisy_load_backward(router, work, dlogits, dscale);
    z_loss_backward(work->dev, dlogits, router->raw_logits, router->raw_lse, z_scale);
}

// The gradients of scores x Wᵀ.
static void score_backward(Work *work, int weight, Tensor dx, Tensor dscores, Tensor x) {
    weight_gradient(work, weight, OWN_GRADIENT, dscores, x);
    matmul_backward_input(work->dev, dx, dscores, as_matrix(work_value(work, weight)),
                          work_dense_rows(work));
}

void router_choose_backward(Router *router, Work *work, Tensor dx, Tensor dscaled) {
    const MoeConfig *moe = &work->config->moe;
    if (router->weight < 0) return;
    if (renormalizes(router, work))
        renormalize_backward(work->dev, dscaled, router->scaled, router->weights,
                             survivors(router, work));
    router_importance_backward(router, work, dscaled);
    float z_scale = (float)(moe->z_loss * per_step_token(work));
    bool noisy = is_noisy(router, work);
    router_backward(work->dev, router->backward_scratch.dlogits, dscaled, routing_of(router),
                    router->logits, router->rule, router_balance_coefficients(router, work),
                    noisy ? 0 : z_scale);
    if (noisy) noise_backward(router, work, z_scale);
    digest_part(work, "router.logits", router->backward_scratch.dlogits);
    Tensor own = own_x(router, work, router->backward_scratch.x_f32, router->x);
    Tensor own_dx = router->backward_scratch.dx;
    score_backward(work, router->weight, own_dx, router->backward_scratch.dlogits, own);
    if (router->gate_bias >= 0)
        bias_gradient(work, router->gate_bias, OWN_GRADIENT, router->backward_scratch.dlogits);
    if (noisy) {
        Tensor dx_noise = router->backward_scratch.dx_noise;
        score_backward(work, router->noise, dx_noise, router->backward_scratch.dscale, own);
        add(work->dev, own_dx, own_dx, dx_noise);
    }
    add(work->dev, dx, dx, jittered(router, work, own_dx, own_dx));
}
