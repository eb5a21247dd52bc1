// Routing by force, to measure and to stress (Megatron's moe_router_force_load_balancing and
// _force_biased): who is chosen follows from the seed, the step, the layer and the token's number
// alone, the same on any ranks. Only training is forced: evaluation and generation tell what the
// router itself would do.
#include <math.h>

#include "model/chooser.h"

static bool chooses(const Work *work, int64_t layer) {
    (void)layer;
    return work->training && work->config->moe.force != FORCE_NONE;
}

static void layout(Router *router, Work *work, Arena *activations) {
    if (work->config->moe.force != FORCE_SKEWED) return;
    router->forced.ends = arena_1d(activations, I32, router->shape.scored);
    router->forced.host_ends = arena_mirror(work->host, router->forced.ends);
    router->forced.made_for = -1;
}

void forced_skew(int32_t *ends, int64_t experts, double sigma, uint64_t seed, int64_t layer) {
    const double all = 1 << 24;
    RngStream stream = {seed, RNG_FORCED, UINT32_MAX, (uint32_t)layer}; // of no step
    double most = -INFINITY, sum = 0;
    int32_t end = 0;
    for (int64_t e = 0; e < experts; e++) most = fmax(most, rng_normal(stream, (uint64_t)e));
    for (int64_t e = 0; e < experts; e++)
        sum += exp(sigma * (rng_normal(stream, (uint64_t)e) - most));
    for (int64_t e = 0; e < experts; e++) {
        double weight = all * exp(sigma * (rng_normal(stream, (uint64_t)e) - most)) / sum;
        ends[e] = end += weight < 1 ? 1 : (int32_t)weight;
    }
}

static void make_skewed_ends(Router *router, Work *work) {
    forced_skew(tensor_i32(router->forced.host_ends), router->shape.scored,
                work->config->moe.force_sigma, work->step.seed, router->layer);
    device_upload(work->dev, router->forced.ends, router->forced.host_ends);
    router->forced.made_for = work->memory_uses;
}

static void choose(Router *router, Work *work) {
    const MoeConfig *moe = &work->config->moe;
    Tensor none = {0};
    ExpertDraw draw = {.experts = router->shape.scored,
                       .stream = work_stream(work, RNG_FORCED, router->layer),
                       .first_token = work->step.first_token};
    switch (moe->force) {
    case FORCE_NONE:
        break;
    case FORCE_BALANCED:
        choose_in_turn(work->dev, router->ids, draw.experts, draw.first_token);
        return;
    case FORCE_SKEWED:
        if (router->forced.made_for != work->memory_uses) make_skewed_ends(router, work);
        choose_by_draw(work->dev, router->ids, none, router->forced.ends, draw);
        return;
    case FORCE_HOT_RANK:
        draw.experts = moe_hot_experts(moe, router->shape);
        choose_by_draw(work->dev, router->ids, none, none, draw);
        return;
    case FORCE_RANDOM:
        choose_by_draw(work->dev, router->ids, none, none, draw);
        return;
    }
    CHECK(false, "forced by %d", (int)moe->force);
}

const Chooser FORCED = {.chooses = chooses, .layout = layout, .choose = choose};
