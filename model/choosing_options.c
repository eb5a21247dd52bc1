#include "kernels/option_rows.h"
#include "model/model_config.h"

static const Choice FORCES[] = {
    [FORCE_NONE] = {"none", "the router chooses"},
    [FORCE_BALANCED] = {"balanced", "every expert in turn"},
    [FORCE_SKEWED] = {"skewed", "drawn with probability exp(b), b normal with moe.force_sigma, "
                                "fixed for each layer and expert by the seed"},
    [FORCE_HOT_RANK] = {"hot_rank", "drawn evenly from the first moe.hot_experts experts"},
    [FORCE_RANDOM] = {"random", "drawn evenly from all"},
};
const ChoiceTable FORCE_CHOICES = CHOICE_TABLE(FORCES);

// clang-format off
#define SECTION_STRUCT ModelConfig
static const Option ROWS[] = {
    INTEGER("moe.hash_layers", FUNCTION, moe.hash_layers, DEFAULT("0"), RANGE(0, 1024),
        "this many first layers are routed by the token's id, with the weights of moe.router (DeepSeek-V4; Hash Layers, "
        "arXiv:2106.04426)"),
    CHOICE("moe.force", COURSE, moe.force, DEFAULT("none"), OF(FORCE_CHOICES),
        "measure or stress: who is chosen in training, whatever the scores; the gate weights stay theirs, and evaluation "
        "and generation are not forced (Megatron)"),
    NUMBER("moe.force_sigma", COURSE, moe.force_sigma, DEFAULT("1"), RANGE(0, 20),
        "skewed: standard deviation of the experts' log-probabilities (Megatron's moe_router_force_biased)"),
    INTEGER("moe.hot_experts", COURSE, moe.hot_experts, DEFAULT("0"), RANGE(0, 65536),
        "hot_rank: the experts that get all the work; moe.experts / parallel.expert are one rank's. 0: the smallest "
        "divisor of moe.experts that holds moe.top_k"),
};
// clang-format on

// Whether a factor is neither off nor its default: a checkpoint's configuration names every key, so
// that what a user has given cannot be asked.
static bool says(double factor, double initially) {
    return factor > 0 && factor != initially;
}

// Whether moe.balance asks for more than what is measured anyway.
static bool balances(const BalanceTerms *terms) {
    for (int64_t i = 0; i < terms->count; i++)
        if (terms->maps[i].kind != BALANCE_LOAD || says(terms->maps[i].factor, 0.01)) return true;
    return terms->count > 1;
}

// A key that the router does not read, and the value that says nothing: it may come from compat, so
// that leaving the key out need not do.
typedef struct Unused {
    bool used;
    const char *key, *off;
} Unused;

// The first that is used; NULL: none.
static const Unused *unused_among(const Unused *keys, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (keys[i].used) return &keys[i];
    return NULL;
}

static bool check_hot_experts(const ModelConfig *model, const OptionRules *rules) {
    const MoeConfig *moe = &model->moe;
    for (int64_t layer = 0; layer < model->layers && moe->hot_experts > 0; layer++) {
        MoeShape shape = moe_shape(model, layer);
        if (!model_is_routed(model, layer)) continue;
        if (moe->hot_experts < shape.top_k || moe->hot_experts > shape.experts)
            return option_broken(
                rules, "moe.hot_experts", "moe.experts",
                "moe.hot_experts (%lld) is not between moe.top_k (%lld) and moe.experts (%lld), "
                "so a token's choices would not be different experts; set it so, or to 0",
                (long long)moe->hot_experts, (long long)shape.top_k, (long long)shape.experts);
    }
    return true;
}

static bool check_force(const ModelConfig *model, const OptionRules *rules) {
    const MoeConfig *moe = &model->moe;
    if (moe->force_sigma != 1 && moe->force != FORCE_SKEWED)
        return option_broken(rules, "moe.force_sigma", "moe.force",
                             "moe.force_sigma is of moe.force=skewed alone; set that, or leave "
                             "moe.force_sigma out");
    if (moe->hot_experts > 0 && moe->force != FORCE_HOT_RANK)
        return option_broken(rules, "moe.hot_experts", "moe.force",
                             "moe.hot_experts is of moe.force=hot_rank alone; set that, or leave "
                             "moe.hot_experts out");
    return check_hot_experts(model, rules);
}

static bool check_hash(const ModelConfig *model, const OptionRules *rules) {
    const MoeConfig *moe = &model->moe;
    if (moe->hash_layers > model->layers)
        return option_broken(rules, "moe.hash_layers", "model.layers",
                             "moe.hash_layers (%lld) is more than model.layers (%lld); set it to "
                             "at most %lld",
                             (long long)moe->hash_layers, (long long)model->layers,
                             (long long)model->layers);
    if (moe->router.kind != HASH) return true;
    if (moe->hash_layers > 0)
        return option_broken(rules, "moe.hash_layers", "moe.router",
                             "moe.router=hash routes every layer by token id, without a gate; "
                             "leave moe.hash_layers out, or set moe.router to the rule of the "
                             "gate's weights and of the other layers");
    const Unused gates[] = {
        {says(moe->balance_loss, 0.01), "moe.balance_loss", "0"},
        {balances(&moe->balance), "moe.balance", "[]"},
        {says(moe->z_loss, 0.001), "moe.z_loss", "0"},
        {moe->bias_update != BIAS_UPDATE_NONE, "moe.bias_update", "none"},
        {moe->gate_bias, "moe.gate_bias", "false"},
        {moe->jitter > 0, "moe.jitter", "0"},
        {moe->router_init_scale != 1, "moe.router_init_scale", "1"},
    };
    const Unused *gate = unused_among(gates, sizeof gates / sizeof *gates);
    return !gate || option_broken(rules, gate->key, "moe.router",
                                  "%s acts on a gate, and moe.router=hash has none; set it to %s, "
                                  "or set another moe.router with moe.hash_layers",
                                  gate->key, gate->off);
}

// Experts that choose: no causal model unawares, nothing that acts on tokens that choose.
static bool check_expert_choice(const ModelConfig *model, const OptionRules *rules) {
    const MoeConfig *moe = &model->moe;
    if (moe->router.kind != EXPERT_CHOICE) {
        if (!moe->allow_noncausal || model_has_feed_forward(model, FEED_FORWARD_SOFT_MOE))
            return true;
        return option_broken(rules, "moe.allow_noncausal", "moe.router",
                             "moe.allow_noncausal is of moe.router=expert_choice and of soft_moe "
                             "layers alone; set it to false");
    }
    if (model->objective == OBJECTIVE_CAUSAL && !moe->allow_noncausal)
        return option_broken(rules, "moe.router", "moe.allow_noncausal",
                             "with moe.router=expert_choice a token's experts depend on the tokens "
                             "after it, which it is to predict; set another moe.router, or "
                             "moe.allow_noncausal=true to train nonetheless");
    const Unused others[] = {
        {says(moe->balance_loss, 0.01), "moe.balance_loss", "0"},
        {balances(&moe->balance), "moe.balance", "[]"},
        {moe->bias_update != BIAS_UPDATE_NONE, "moe.bias_update", "none"},
        {moe->balance_choices != BALANCE_ALL_CHOICES, "moe.balance_choices", "all"},
        {moe->force != FORCE_NONE, "moe.force", "none"},
        {moe->hash_layers > 0, "moe.hash_layers", "0"},
        {moe->drop != DROP_POSITION, "moe.drop", "position"},
        {moe->renormalize_after_drop, "moe.renormalize_after_drop", "false"},
    };
    const Unused *other = unused_among(others, sizeof others / sizeof *others);
    return !other || option_broken(rules, other->key, "moe.router",
                                   "%s is of tokens that choose; with moe.router=expert_choice "
                                   "every expert takes equally many and none is dropped: set it "
                                   "to %s",
                                   other->key, other->off);
}

static bool check(const void *section, const OptionRules *rules) {
    return check_force(section, rules) && check_hash(section, rules) &&
           check_expert_choice(section, rules);
}

const OptionSection CHOOSING_OPTIONS = SECTION(ROWS, check);
