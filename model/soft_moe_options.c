#include "kernels/option_rows.h"
#include "model/model_config.h"

// clang-format off
#define SECTION_STRUCT ModelConfig
static const Option ROWS[] = {
    INTEGER("moe.slots", FUNCTION, moe.expert_slots, DEFAULT("1"), RANGE(1, 65536),
        "soft_moe: slots of each expert in a sequence; a layer works as much as a dense one of moe.d_ff where moe.experts "
        "times this is train.context (Soft MoE, arXiv:2308.00951: 1 of many experts)"),
};
// clang-format on

static bool check(const void *section, const OptionRules *rules) {
    const ModelConfig *model = section;
    const MoeConfig *moe = &model->moe;
    if (!model_has_feed_forward(model, FEED_FORWARD_SOFT_MOE)) {
        if (moe->expert_slots == 1) return true;
        return option_broken(rules, "moe.slots", "model.feed_forward",
                             "moe.slots is of soft_moe layers, and there are none; set "
                             "model.feed_forward=soft_moe, or leave it out");
    }
    for (int64_t layer = 0; layer < model->layers; layer++)
        if (model_feed_forward(model, layer) == FEED_FORWARD_SOFT_MOE &&
            layer_value(&moe->experts, layer) == 0)
            return option_broken(rules, "model.feed_forward", "moe.experts",
                                 "model.feed_forward says soft_moe for layer %lld, where "
                                 "moe.experts is 0; say dense there, or set moe.experts above 0",
                                 (long long)layer);
    if (model->objective == OBJECTIVE_CAUSAL && !moe->allow_noncausal)
        return option_broken(rules, "model.feed_forward", "moe.allow_noncausal",
                             "in a soft_moe layer a token's output depends on the tokens after it, "
                             "which it is to predict; set another model.feed_forward, or "
                             "moe.allow_noncausal=true to train nonetheless");
    return true;
}

const OptionSection SOFT_MOE_OPTIONS = SECTION(ROWS, check);
