#include "model/moe_layer.h"

#include "kernels/integers.h"
#include "model/router_balance.h"
#include "model/router_bias.h"
#include "model/stream_digests.h"
#include "model/zero_experts.h"

static int64_t experts(const ModelConfig *config, int64_t layer) {
    return moe_shape(config, layer).experts;
}

static bool check_device(const ModelConfig *config, int64_t layer, const Device *dev, Error *err) {
    MoeShape shape = moe_shape(config, layer);
    return device_check_limit(dev,
                              shape.zero > 0 ? "moe.experts + moe.zero_experts" : "moe.experts",
                              shape.scored, dev->limits.experts, err) &&
           device_check_limit(dev, shape.slots > shape.top_k ? "moe.experts" : "moe.top_k",
                              shape.slots, dev->limits.top_k, err);
}

static void declare(void *self, Work *work, int64_t layer) {
    MoeLayer *moe = self;
    moe->shape = moe_shape(work->config, layer);
    router_declare(&moe->router, ROUTER_OF_FEED_FORWARD, moe->shape, work, layer);
    latent_space_declare(&moe->latent, work, moe->shape);
    moe->places =
        placement_table(work->placement, layer, ROUTER_OF_FEED_FORWARD, moe->shape.experts);
    experts_declare(&moe->experts, moe->shape, moe->places, work, layer);
    shared_experts_declare(&moe->shared, work, moe->shape);
}

// Capacities of documents are rounded up for each of them: choices alone bound what they let
// through.
static DispatchShape dispatch_shape(const MoeLayer *moe, const Work *work) {
    MoeShape shape = moe->shape;
    const MoeConfig *config = &work->config->moe;
    int64_t groups = routing_groups(work);
    bool documents = config->routing_group == GROUP_DOCUMENT;
    return (DispatchShape){
        .layer = moe->router.layer,
        .tokens = work->shape.N,
        .places = moe->places,
        .K = shape.slots,
        .choosable = shape.scored,
        .groups = groups,
        .capacity = documents ? -1 : moe_capacity(config, shape, work->shape.N / groups),
        .padded = config->dispatch == DISPATCH_PADDED,
    };
}

static void layout(void *self, Work *work, Statistics *stats, Arena *activations, Arena *scratch) {
    MoeLayer *moe = self;
    int64_t K = moe->shape.slots;
    router_layout(&moe->router, work, activations, scratch);
    router_report(&moe->router, work, stats);
    dispatch_layout(&moe->plan, dispatch_shape(moe, work), work, activations);
    expert_exchange_layout(&moe->routed,
                           (ExpertTraffic){&moe->plan, &FEED_FORWARD_EXPERTS, &moe->experts,
                                           moe->shape.width, moe->shape.width, "dispatched",
                                           "returned"},
                           work, activations);

    size_t mark = arena_mark(scratch);
    expert_exchange_layout_scratch(&moe->routed, work, scratch);
    moe->dweights = arena_2d(scratch, F32, work->shape.N, K);
    shared_experts_layout(&moe->shared, work, activations, scratch);
    latent_space_layout(&moe->latent, work, activations, scratch);
    experts_layout(&moe->experts, work, moe->plan.max_rows, activations, scratch);
    // The router's backward pass runs while dweights is alive, after the experts' scratch is free.
    router_layout_backward(&moe->router, work, scratch);
    arena_release(scratch, mark);
}

static bool check(const void *self, const Work *work, Error *err) {
    (void)work;
    const MoeLayer *moe = self;
    return dispatch_check(&moe->plan, err);
}

// Experts that work on a token, on average: when all are chosen equally often.
static double experts_of_token(const MoeLayer *moe, const Work *work) {
    const DispatchShape *shape = &moe->plan.shape;
    if (work->config->moe.router.kind != EXPERT_CHOICE)
        return (double)(moe->shape.top_k * moe->shape.experts) / (double)moe->shape.scored;
    return (double)(shape->capacity * shape->groups * shape->places->E) / (double)work->shape.N;
}

static void cost(const void *self, const Work *work, LayerCost *cost) {
    const MoeLayer *moe = self;
    const ModelConfig *config = work->config;
    MoeShape shape = moe->shape;
    double mean = experts_of_token(moe, work), expert = experts_flops(config, shape);
    cost->flops_per_token += mean * expert;
    cost->expert_flops += mean * expert;
    router_cost(&moe->router, work, cost);
    if (shape.zero > 0) {
        int64_t least = shape.top_k > shape.zero ? shape.top_k - shape.zero : 0;
        cost->flops_below += (mean - (double)least) * expert;
        cost->flops_above += ((double)shape.top_k - mean) * expert;
    }

    dispatch_cost(&moe->plan, work, cost->sent_bytes);
    expert_exchange_cost(&moe->routed, work, cost->sent_bytes);
    shared_experts_cost(&moe->shared, work, cost);
    latent_space_cost(&moe->latent, work, cost);
    cost->scratch.F = larger(cost->scratch.F, shape.d_ff);
}

// ---- both passes --------------------------------------------------------------------------------

static void shared_forward(void *moe, Work *work, Tensor x) {
    shared_experts_forward(&((MoeLayer *)moe)->shared, work, x);
}
static void shared_backward(void *moe, Work *work, Tensor dout) {
    shared_experts_backward(&((MoeLayer *)moe)->shared, work, dout);
}

static void forward(void *self, Work *work, Statistics *stats, Tensor out, Tensor x) {
    MoeLayer *moe = self;
    Router *router = &moe->router;
    Dispatch *d = &moe->plan;
    router_route(router, work, stats, x);
    moe->seen = latent_space_enter(&moe->latent, work, x);
    if (moe->shape.width != work->config->d_model) digest_part(work, "latent", moe->seen);
    dispatch_plan(d, work, router->ids, router->travels);
    experts_number_rows(&moe->experts, work, d);
    expert_exchange_forward(&moe->routed, work, moe->seen, (Beside){shared_forward, moe, x});
    Tensor routed = shared_experts_routed(&moe->shared, out);
    Tensor sum = latent_space_sum(&moe->latent, routed);
    combine_forward(work->dev, sum, moe->routed.sent_out, d->slot_row, router->scaled);
    zero_experts_forward(router, work, sum, moe->seen);
    if (sum.data != out.data || moe->shared.ffn.d_ff > 0) digest_part(work, "combined", sum);
    latent_space_leave(&moe->latent, work, routed);
    shared_experts_join(&moe->shared, work, out);
}

static void backward(void *self, Work *work, Tensor dx, Tensor dout) {
    MoeLayer *moe = self;
    Router *router = &moe->router;
    Dispatch *d = &moe->plan;
    // sent_out, expert_out and expert_in turn into their own gradients one after the other. Padding
    // rows of sent_out hold what the experts made of zeros: their gradient is zero.
    Tensor padding = d->padded_rows >= 0 ? d->row_choice : (Tensor){0};
    Tensor drouted = shared_experts_routed_backward(&moe->shared, work, dout);
    Tensor dsum = latent_space_leave_backward(&moe->latent, work, drouted);
    combine_backward(work->dev, moe->routed.sent_out, moe->dweights, dsum, moe->routed.sent_out,
                     d->slot_row, padding, router->scaled);
    Tensor dsent =
        expert_exchange_backward(&moe->routed, work, (Beside){shared_backward, moe, dout});
    Tensor dseen = latent_space_gradient(&moe->latent, dx);
    combine_forward(work->dev, dseen, dsent, d->slot_row, (Tensor){0});
    zero_experts_backward(router, work, dseen, moe->dweights, dsum, moe->seen);
    digest_part(work, "combined", dseen);
    latent_space_enter_backward(&moe->latent, work, dx);
    shared_experts_add_backward(&moe->shared, work, dx);
    router_choose_backward(router, work, dx, moe->dweights);
}

// A token's text must not depend on its neighbours: nothing is dropped, and padded dispatch needs a
// capacity.
static bool for_generation(ModelConfig *config, Error *err) {
    if (config->moe.router.kind == EXPERT_CHOICE)
        return error_set(err, EXIT_CONFIG,
                         "with moe.router=expert_choice a token's experts depend on the tokens "
                         "after it, so that nothing can be generated; train with another router");
    config->moe.capacity_factor = (Rational){0, 1};
    config->moe.dispatch = DISPATCH_EXACT;
    return true;
}

static void bound(const ModelConfig *config, int64_t layer, LayerBound *bound) {
    MoeShape shape = moe_shape(config, layer);
    double D = (double)config->d_model, E = (double)shape.experts, F = (double)shape.d_ff;
    double rows = config->moe.dispatch == DISPATCH_PADDED ? E : (double)shape.top_k;
    double W = (double)shape.width;
    bound->parameters += E * W * 3 * F + (double)shape.scored * D;
    bound->kept += rows * (3 * F + 4 * W) + (double)shape.scored + 8 * (double)shape.slots;
    if (bound->choices < (double)shape.slots) bound->choices = (double)shape.slots;
    shared_experts_bound(config, shape, bound);
    latent_space_bound(config, shape, bound);
}

static void after_step(void *self, Work *work, const Statistics *stats) {
    MoeLayer *moe = self;
    router_after_step(&moe->router, work, stats);
}

const LayerKind MOE_FEED_FORWARD = {
    .state_bytes = sizeof(MoeLayer),
    .bound = bound,
    .experts = experts,
    .experts_name = "moe.experts",
    .check_device = check_device,
    .declare = declare,
    .layout = layout,
    .check = check,
    .cost = cost,
    .forward = forward,
    .backward = backward,
    .after_step = after_step,
    .for_generation = for_generation,
};
