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

// Weights of a skewed draw: exp(b) with b normal, fixed by the seed and the layer; as whole numbers
// of which 2^24 are all, at least 1 each.
static void make_skewed_ends(Router *router, Work *work) {
    const double all = 1 << 24, sigma = work->config->moe.force_sigma;
    RngStream stream = work_stream(work, RNG_FORCED, router->layer);
    stream.a = UINT32_MAX; // of no step
    int64_t E = router->shape.scored;
    double most = -INFINITY, sum = 0;
    for (int64_t e = 0; e < E; e++) most = fmax(most, rng_normal(stream, (uint64_t)e));
    for (int64_t e = 0; e < E; e++) sum += exp(sigma * (rng_normal(stream, (uint64_t)e) - most));
    int32_t *ends = tensor_i32(router->forced.host_ends), end = 0;
    for (int64_t e = 0; e < E; e++) {
        double weight = all * exp(sigma * (rng_normal(stream, (uint64_t)e) - most)) / sum;
        ends[e] = end += weight < 1 ? 1 : (int32_t)weight;
    }
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
