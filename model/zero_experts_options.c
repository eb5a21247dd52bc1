#include "kernels/option_rows.h"
#include "model/model_config.h"

static const Choice ZEROS[] = {
    [ZERO_IDENTITY] = {"identity", "its input, times its gate weight (LongCat-Flash; MoE++'s copy "
                                   "experts)"},
    [ZERO_NULL] = {"null", "nothing (MoE++'s zero experts, arXiv:2410.07348)"},
};
const ChoiceTable ZERO_CHOICES = CHOICE_TABLE(ZEROS);

// clang-format off
#define SECTION_STRUCT ModelConfig
static const Option ROWS[] = {
    INTEGER("moe.zero_experts", FUNCTION, moe.zero_experts, DEFAULT("0"), RANGE(0, 65536),
        "experts beside moe.experts that compute nothing and to which nothing travels, so that the router decides how many of "
        "a token's moe.top_k choices cost work: moe.experts / (moe.experts + moe.zero_experts) of them on average while balance "
        "losses or the bias keep all evenly chosen, and capacity is over that load (MoE++, arXiv:2410.07348; LongCat-Flash, "
        "arXiv:2509.01322: 256 beside 512). Layers that are routed by token id have none"),
    CHOICE("moe.zero_kind", FUNCTION, moe.zero_kind, DEFAULT("identity"), OF(ZERO_CHOICES),
        "what one of moe.zero_experts puts out; with null and moe.renormalize_after_drop the weights of the others sum to 1"),
};
// clang-format on

// ---- rules --------------------------------------------------------------------------------------

enum { MOST_SCORED = 65536 }; // experts of both kinds: their numbers have 16 bits where recorded

static bool check_number(const ModelConfig *model, const OptionRules *rules) {
    for (int64_t layer = 0; layer < model->layers; layer++) {
        MoeShape shape = moe_shape(model, layer);
        if (shape.scored <= MOST_SCORED) continue;
        return option_broken(rules, "moe.zero_experts", "moe.experts",
                             "moe.zero_experts (%lld) and moe.experts (%lld) are more than %d "
                             "together; set moe.zero_experts to at most %lld",
                             (long long)shape.zero, (long long)shape.experts, (int)MOST_SCORED,
                             (long long)(MOST_SCORED - shape.experts));
    }
    return true;
}

static bool check(const void *section, const OptionRules *rules) {
    const ModelConfig *model = section;
    const MoeConfig *moe = &model->moe;
    if (moe->zero_experts == 0) {
        if (moe->zero_kind == ZERO_IDENTITY) return true;
        return option_broken(rules, "moe.zero_kind", "moe.zero_experts",
                             "moe.zero_kind is of zero-computation experts, and moe.zero_experts "
                             "is 0; set moe.zero_experts=1 or leave moe.zero_kind out");
    }
    if (moe->router.kind == EXPERT_CHOICE)
        return option_broken(rules, "moe.zero_experts", "moe.router",
                             "with moe.router=expert_choice experts choose tokens, and a token "
                             "that none chooses costs nothing already; leave out moe.zero_experts "
                             "(%lld)",
                             (long long)moe->zero_experts);
    if (moe->router.kind == HASH || moe->hash_layers >= model->layers)
        return option_broken(rules, "moe.zero_experts",
                             moe->router.kind == HASH ? "moe.router" : "moe.hash_layers",
                             "every layer is routed by token id, and no router is there to learn "
                             "which tokens need less work; leave out moe.zero_experts (%lld)",
                             (long long)moe->zero_experts);
    if (moe->router.groups > 1)
        return option_broken(rules, "moe.zero_experts", "moe.groups",
                             "moe.groups (%lld) are equal groups of the experts of a place, and "
                             "moe.zero_experts (%lld) are at no place; leave out one of the two",
                             (long long)moe->router.groups, (long long)moe->zero_experts);
    return check_number(model, rules);
}

const OptionSection ZERO_EXPERTS_OPTIONS = SECTION(ROWS, check);
