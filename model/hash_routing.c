// Routing by token id (Hash Layers, Roller et al., arXiv:2106.04426): a token's K experts are drawn
// once and for all, from its id and the layer, whatever the run's seed: equal tokens, equal
// experts. Where all layers are such there is no gate and each expert weighs 1/K; where the first
// moe.hash_layers are, the weights are the gate's (DeepSeek-V4).
#include "model/chooser.h"

static bool chooses(const Work *work, int64_t layer) {
    return moe_is_hashed(&work->config->moe, layer);
}

static void choose(Router *router, Work *work) {
    ExpertDraw draw = {.experts = router->shape.experts,
                       .stream = {.purpose = RNG_HASH, .b = (uint32_t)router->layer}};
    choose_by_draw(work->dev, router->ids, work->tokens, (Tensor){0}, draw);
}

const Chooser HASHED = {.chooses = chooses, .choose = choose};
