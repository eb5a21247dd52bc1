#include "kernels/option_rows.h"
#include "model/model_config.h"

// clang-format off
#define SECTION_STRUCT ModelConfig
static const Option ROWS[] = {
    INTEGER("mtp.layers", STATE, mtp.layers, DEFAULT("0"), RANGE(0, MTP_LAYERS_MAX),
        "multi-token prediction (DeepSeek-V3, arXiv:2412.19437, section 2.2; Megatron's mtp_num_layers): modules of a block "
        "like the last layer, each of which is trained to predict one token further on; 0: none"),
    NUMBER("mtp.loss_factor", COURSE, mtp.loss_factor, DEFAULT("0.1"), RANGE(1e-6, 100),
        "of the modules' mean loss (Megatron: 0.1; DeepSeek-V3: 0.3 for the first 10T tokens of 14.8T)"),
};
// clang-format on

static bool check(const void *section, const OptionRules *rules) {
    const ModelConfig *model = section;
    if (model->mtp.layers == 0) {
        if (model->mtp.loss_factor == 0.1) return true;
        return option_broken(rules, "mtp.loss_factor", "mtp.layers",
                             "mtp.loss_factor is of multi-token prediction, and there is none; set "
                             "mtp.layers=1, or leave it out");
    }
    if (model->objective == OBJECTIVE_MASKED)
        return option_broken(rules, "mtp.layers", "train.objective",
                             "mtp.layers (%lld) predicts tokens further on, of which a masked "
                             "model sees many; set mtp.layers=0, or train.objective=causal",
                             (long long)model->mtp.layers);
    bool chosen = model->moe.router.kind == EXPERT_CHOICE;
    if (chosen || model_has_feed_forward(model, FEED_FORWARD_SOFT_MOE))
        return option_broken(rules, "mtp.layers", chosen ? "moe.router" : "model.feed_forward",
                             "with %s a token depends on those that mtp.layers (%lld) is to "
                             "predict; set mtp.layers=0, or another %s",
                             chosen ? "moe.router=expert_choice" : "model.feed_forward=soft_moe",
                             (long long)model->mtp.layers,
                             chosen ? "moe.router" : "model.feed_forward");
    return true;
}

const OptionSection MTP_OPTIONS = SECTION(ROWS, check);
