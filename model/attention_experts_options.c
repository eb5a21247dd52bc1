#include "kernels/option_rows.h"
#include "model/model_config.h"

static void derive_top_k(void *section) {
    ModelConfig *model = section;
    AttentionConfig *attention = &model->attention;
    bool of_heads = model_has_mixer(model, MIXER_SWITCHHEAD);
    attention->top_k = model_has_mixer(model, MIXER_MOA) ? attention->shape.heads
                       : of_heads                        ? 2
                                                         : 0;
}

// clang-format off
#define SECTION_STRUCT ModelConfig
static const Option ROWS[] = {
    INTEGER("attention.experts", FUNCTION, attention.experts, DEFAULT("0"), RANGE(0, 65536),
        "moa: experts with a query and an output projection each, on all ranks together (MoA, arXiv:2210.05144: up to 64); "
        "switchhead: value and output projections of each head (SwitchHead, arXiv:2312.07987: 4 or 5)"),
    INTEGER("attention.top_k", FUNCTION, attention.top_k,
        DERIVED("attention.heads with model.mixer: moa, 2 with switchhead, otherwise 0", derive_top_k), RANGE(0, 1024),
        "moa: experts that a token chooses, each of which is one of its attention.heads (MoA, arXiv:2210.05144: 8); "
        "switchhead: value and output projections of each head that work on a token (SwitchHead, arXiv:2312.07987: 2 or 3)"),
};
// clang-format on

// Of a model without such layers.
static bool check_unused(const AttentionConfig *attention, const OptionRules *rules) {
    const char *key = attention->experts > 0 ? "attention.experts"
                      : attention->top_k > 0 ? "attention.top_k"
                                             : NULL;
    return !key || option_broken(rules, key, "model.mixer",
                                 "%s is of attention experts, which no layer has; set "
                                 "model.mixer=moa or switchhead, or leave it out",
                                 key);
}

static bool has_slopes(const ModelConfig *model) {
    for (int64_t layer = 0; layer < model->layers; layer++)
        if (model_positions(model, layer) == POSITIONS_ALIBI) return true;
    return false;
}

// What tells heads apart has no meaning where each token has its own.
static bool check_heads(const ModelConfig *model, const OptionRules *rules) {
    const AttentionConfig *attention = &model->attention;
    const struct {
        bool used;
        const char *key, *off;
    } of_heads[] = {
        {attention->softmax == SOFTMAX_SINK, "attention.softmax", "plain"},
        {attention->qk_norm == QK_NORM_WHOLE, "attention.qk_norm", "head"},
        {attention->gate != GATE_NONE, "attention.gate", "none"},
        {attention->max_logits, "attention.max_logits", "false"},
        {has_slopes(model), "attention.positions", "rope"},
    };
    for (size_t i = 0; i < sizeof of_heads / sizeof *of_heads; i++)
        if (of_heads[i].used)
            return option_broken(rules, of_heads[i].key, "model.mixer",
                                 "%s tells heads apart by their number, and in moa layers a "
                                 "token's heads are the experts that it chooses; set %s=%s",
                                 of_heads[i].key, of_heads[i].key, of_heads[i].off);
    return true;
}

// A router among heads: it scores tokens, and some experts are left out.
static bool check_router(const ModelConfig *model, const OptionRules *rules) {
    const MoeConfig *moe = &model->moe;
    const char *word = choice_row(ROUTER_CHOICES, (int)moe->router.kind)->word;
    if (moe->router.kind == HASH || moe->router.kind == EXPERT_CHOICE)
        return option_broken(rules, "moe.router", "model.mixer",
                             "moe.router=%s is of feed-forwards alone, and moa layers have a "
                             "router, too; set another one, or model.mixer=attention",
                             word);
    if (moe->router.groups > 1)
        return option_broken(rules, "moe.groups", "model.mixer",
                             "moe.groups (%lld) are groups of moe.experts, and moa layers have a "
                             "router, too; set moe.groups=1, or model.mixer=attention",
                             (long long)moe->router.groups);
    if (model->attention.shape.heads == 1 && router_single_weight_is_1(moe->router))
        return option_broken(rules, "attention.heads", "moe.router",
                             "with attention.heads 1 the gate weight of moe.router=%s is always "
                             "1, so the router of a moa layer would get no gradient; set "
                             "moe.router=topk_softmax, or attention.heads=2",
                             word);
    return true;
}

static bool check_moa(const ModelConfig *model, const OptionRules *rules) {
    const AttentionConfig *attention = &model->attention;
    int64_t heads = attention->shape.heads;
    if (attention->top_k != heads)
        return option_broken(rules, "attention.top_k", "attention.heads",
                             "attention.top_k (%lld) is not attention.heads (%lld), but in moa "
                             "layers each of a token's heads is an expert that it chooses; set "
                             "attention.heads=%lld",
                             (long long)attention->top_k, (long long)heads,
                             (long long)attention->top_k);
    if (attention->experts <= heads)
        return option_broken(rules, "attention.experts", "attention.heads",
                             "attention.experts (%lld) leaves a token no choice of attention.heads "
                             "(%lld) in moa layers; set it to %lld or so, or model.mixer=attention",
                             (long long)attention->experts, (long long)heads,
                             (long long)(4 * heads));
    if (attention->shape.kv_heads != 1)
        return option_broken(rules, "attention.kv_heads", "model.mixer",
                             "attention.kv_heads is %lld, but all experts of a moa layer share one "
                             "key and value; set it to 1 or leave it out",
                             (long long)attention->shape.kv_heads);
    return check_heads(model, rules) && check_router(model, rules);
}

static bool check_switchhead(const ModelConfig *model, const OptionRules *rules) {
    const AttentionConfig *attention = &model->attention;
    const char *unknown = attention->softmax == SOFTMAX_SINK ? "attention.softmax"
                          : attention->gate != GATE_NONE     ? "attention.gate"
                          : attention->max_logits            ? "attention.max_logits"
                                                             : NULL;
    if (attention->top_k < 1 || attention->top_k > attention->experts)
        return option_broken(rules, "attention.top_k", "attention.experts",
                             "attention.top_k (%lld) is not between 1 and attention.experts "
                             "(%lld), of which a switchhead layer chooses so many in each head; "
                             "set attention.experts=%lld or so",
                             (long long)attention->top_k, (long long)attention->experts,
                             (long long)(attention->top_k > 2 ? 2 * attention->top_k : 4));
    if (attention->shape.kv_heads != attention->shape.heads)
        return option_broken(rules, "attention.kv_heads", "model.mixer",
                             "attention.kv_heads (%lld) is not attention.heads (%lld), but each "
                             "head of a switchhead layer has its own values; leave it out",
                             (long long)attention->shape.kv_heads,
                             (long long)attention->shape.heads);
    return !unknown || option_broken(rules, unknown, "model.mixer",
                                     "%s is of model.mixer=attention alone, and some layer is "
                                     "switchhead; leave it out",
                                     unknown);
}

static bool check(const void *section, const OptionRules *rules) {
    const ModelConfig *model = section;
    bool moa = model_has_mixer(model, MIXER_MOA);
    bool switchhead = model_has_mixer(model, MIXER_SWITCHHEAD);
    if (moa && switchhead)
        return option_broken(rules, "model.mixer", NULL,
                             "model.mixer has moa and switchhead, to which attention.heads and "
                             "attention.experts say different things; leave out one of them");
    if (moa) return check_moa(model, rules);
    return switchhead ? check_switchhead(model, rules) : check_unused(&model->attention, rules);
}

const OptionSection ATTENTION_EXPERTS_OPTIONS = SECTION(ROWS, check);
