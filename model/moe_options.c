#include <stdio.h>

#include "kernels/integers.h"
#include "kernels/option_rows.h"
#include "model/layer_kind.h"
#include "model/model_config.h"

// ---- words --------------------------------------------------------------------------------------

static const Choice ROUTING_GROUPS[] = {
    [GROUP_SHARD] = {"shard", "the tokens of one of train.shards"},
    [GROUP_SEQUENCE] = {"sequence", "the tokens of one sequence"},
    [GROUP_DOCUMENT] = {"document",
                        "those of one document in a sequence, with data.documents: mask"},
};
const ChoiceTable ROUTING_GROUP_CHOICES = CHOICE_TABLE(ROUTING_GROUPS);

static const Choice CAPACITY_ROUNDINGS[] = {
    [CAPACITY_CEIL] = {"ceil", "upwards, of the exact product: the factor 1.1 is 11/10"},
    [CAPACITY_FLOOR] = {"floor", "downwards (Switch, Mesh TensorFlow)"},
    [CAPACITY_CEIL_F64] = {"ceil_f64", "upwards in double, where 1.1 is a little more (Megatron)"},
    [CAPACITY_CEIL_F32] = {"ceil_f32", "upwards in float (DeepSpeed)"},
    [CAPACITY_FLOOR_PER_CHOICE] = {"floor_per_choice",
                                   "top_k * floor(factor * ceil(tokens / experts)) (Tutel)"},
};
const ChoiceTable CAPACITY_ROUNDING_CHOICES = CHOICE_TABLE(CAPACITY_ROUNDINGS);

static const Choice DISPATCHES[] = {
    [DISPATCH_EXACT] = {"exact", "kept choices travel, after their counts"},
    [DISPATCH_PADDED] = {"padded",
                         "every expert takes its whole capacity from every shard, so that "
                         "no rank waits for counts (GPUs; GShard; Megatron's "
                         "moe_pad_expert_input_to_capacity); needs moe.capacity_factor"},
};
const ChoiceTable DISPATCH_CHOICES = CHOICE_TABLE(DISPATCHES);

static const Choice DROPOUT_PLACES[] = {
    [DROPOUT_HIDDEN] = {"hidden", "the activations between an expert's two matrices (Switch)"},
    [DROPOUT_OUTPUT] = {"output", "what the expert puts out (makeMoE)"},
};
const ChoiceTable DROPOUT_PLACE_CHOICES = CHOICE_TABLE(DROPOUT_PLACES);

// ---- keys ---------------------------------------------------------------------------------------

static void derive_d_ff(void *section) {
    ModelConfig *model = section;
    model->moe.d_ff = (PerLayer){1, {(int32_t)model->d_ff}};
}

static int64_t usual_latent_width(const ModelConfig *model) {
    return larger(model->d_model / 4, 1);
}
static void derive_latent_width(void *section) {
    ModelConfig *model = section;
    model->moe.latent_width = usual_latent_width(model);
}

// clang-format off
#define SECTION_STRUCT ModelConfig
static const Option ROWS[] = {
    INTEGERS("moe.experts", FUNCTION, moe.experts, DEFAULT("8"), RANGE(0, 65536),
        "experts of a MoE layer, on all ranks together (Shazeer et al. 2017, arXiv:1701.06538); 0: a dense layer"),
    INTEGERS("moe.top_k", FUNCTION, moe.top_k, DEFAULT("2"), RANGE(1, 64),
        "experts that work on a token (Shazeer et al. 2017, arXiv:1701.06538); 1 in Switch, 2 in GShard and Mixtral"),
    INTEGERS("moe.d_ff", FUNCTION, moe.d_ff, DERIVED("model.d_ff", derive_d_ff), RANGE(1, 1e6),
        "hidden width of one expert; many narrow ones are fine-grained experts (DeepSeek-MoE, arXiv:2401.06066)"),
    INTEGER("moe.shared_experts", FUNCTION, moe.shared_experts, DEFAULT("0"), RANGE(0, 1024),
        "experts beside the routed ones that work on every token (DeepSeek-MoE, arXiv:2401.06066); 0: none, in a pr_moe "
        "layer one"),
    INTEGER("moe.shared_d_ff", FUNCTION, moe.shared_d_ff, DEFAULT("0"), RANGE(0, 1e6),
        "hidden width of all shared experts together (Qwen2-MoE, arXiv:2407.10671); 0: moe.shared_experts times moe.d_ff"),
    FLAG("moe.shared_gate", FUNCTION, moe.shared_gate, DEFAULT("false"),
        "multiply what shared experts put out by the sigmoid of a learned product with x (Qwen2-MoE, arXiv:2407.10671)"),
    INTEGER("moe.latent_width", FUNCTION, moe.latent_width, DERIVED("model.d_model / 4", derive_latent_width),
        RANGE(1, 65536),
        "latent_moe: width in which tokens travel to the experts and these work (LatentMoE, arXiv:2601.18089; Nemotron 3: a "
        "quarter of model.d_model)"),
    NUMBER("moe.dropout", COURSE, moe.dropout, DEFAULT("0"), RANGE(0, 0.99),
        "expert dropout: share of each expert's numbers that is zero in a step, beside train.dropout; more of it than "
        "elsewhere keeps a large model from overfitting when fine-tuned (Switch, arXiv:2101.03961, 0.4 beside 0.1)"),
    CHOICE("moe.dropout_at", COURSE, moe.dropout_at, DEFAULT("hidden"), OF(DROPOUT_PLACE_CHOICES),
        "which numbers of an expert moe.dropout drops"),
    INTEGER("moe.every", FUNCTION, moe.every, DEFAULT("1"), RANGE(1, PER_LAYER_MAX),
        "every n-th layer is a MoE layer, the others are dense; 2 in GShard (arXiv:2006.16668), 1: all are"),
    FLAG("moe.first", FUNCTION, moe.first, DEFAULT("true"),
        "count from the first layer (0, n, 2n, …) instead of the n-th (n-1, 2n-1, …)"),
    CHOICE("moe.router", FUNCTION, moe.router.kind, DEFAULT("softmax_topk"), OF(ROUTER_CHOICES),
        "how a token's logits choose its experts and become their gate weights"),
    FLAG("moe.allow_noncausal", STATE, moe.allow_noncausal, DEFAULT("false"),
        "expert_choice, soft_moe: train a model that predicts the next token although its routing looks at later tokens; its "
        "losses, of evaluations too, are then too good to compare, and it generates nothing (Zhou et al., arXiv:2202.09368)"),
    FLAG("moe.normalize_top_k", FUNCTION, moe.router.normalize_top_k, DEFAULT("false"),
        "topk_softmax: divide the chosen weights by their sum (GShard, Qwen3; norm_topk_prob in transformers)"),
    NUMBER("moe.scaling_factor", FUNCTION, moe.router.scaling_factor, DEFAULT("1"), RANGE(1e-3, 1e3),
        "sigmoid, sqrtsoftplus: what a token's gate weights sum to; with moe.top_k=1 its weight is the score times this "
        "(DeepSeek-V3, arXiv:2412.19437: routed_scaling_factor 2.5)"),
    INTEGER("moe.groups", FUNCTION, moe.router.groups, DEFAULT("1"), RANGE(1, ROUTER_GROUPS_MAX),
        "equal groups of neighbouring experts, e.g. one a host: a token's experts come from the best moe.top_groups of them "
        "(DeepSeek-V2, V3, arXiv:2412.19437: n_group); a group is judged by the sum of its top_k / top_groups best scores"),
    INTEGER("moe.top_groups", FUNCTION, moe.router.top_groups, DEFAULT("1"), RANGE(1, ROUTER_GROUPS_MAX),
        "groups in which a token's experts may lie (DeepSeek: topk_group)"),
    INTEGER("moe.sinkhorn_iterations", COURSE, moe.sinkhorn_iterations, DEFAULT("8"), RANGE(1, 1000),
        "sinkhorn: iterations that even out the experts' load over the tokens of a shard, or of a sequence where that is a "
        "moe.balance_scope (Megatron-LM iterates until nothing moves)"),
    FLAG("moe.noise_in_evaluation", FUNCTION, moe.noise_in_evaluation, DEFAULT("false"),
        "noisy_top_k: draw noise in evaluation and generation too, by token number or position (makeMoE)"),
    NUMBER("moe.jitter", COURSE, moe.jitter, DEFAULT("0"), RANGE(0, 0.99),
        "while training the router's input, and nothing else, is times a random factor between 1 - jitter and 1 + jitter "
        "(Switch, arXiv:2101.03961: 0.01); 0: off"),
    NUMBER("moe.router_init_scale", FUNCTION, moe.router_init_scale, DEFAULT("1"), RANGE(1e-6, 1e3),
        "the router's initial weights have this times model.init_std (Switch, ST-MoE: 0.1 against instability at the start)"),
    FLAG("moe.gate_bias", FUNCTION, moe.gate_bias, DEFAULT("false"),
        "the router's logits have a learned bias (gpt-oss, arXiv:2508.10925)"),
    RATIONAL("moe.capacity_factor", STATE, moe.capacity_factor, DEFAULT("0"), RANGE(0, 1000),
        "an expert takes at most factor * top_k * tokens / experts choices of a routing group (GShard, "
        "arXiv:2006.16668: 1; Switch, arXiv:2101.03961: 1.25); 0: no limit"),
    CHOICE("moe.capacity_rounding", STATE, moe.capacity_rounding, DEFAULT("ceil"), OF(CAPACITY_ROUNDING_CHOICES),
        "how factor * top_k * tokens / experts becomes whole"),
    CHOICE("moe.dispatch", FREE, moe.dispatch, DEFAULT("exact"), OF(DISPATCH_CHOICES),
        "what travels to the experts"),
    INTEGER("moe.min_capacity", STATE, moe.min_capacity, DEFAULT("1"), RANGE(1, 1e9),
        "smallest capacity of an expert, in tokens (GShard, DeepSpeed-MoE: 4)"),
    CHOICE("moe.drop", STATE, moe.drop, DEFAULT("position"), OF(DROP_CHOICES),
        "who loses when an expert is full"),
    FLAG("moe.renormalize_after_drop", STATE, moe.renormalize_after_drop, DEFAULT("false"),
        "divide a token's surviving gate weights by their sum (DeepSpeed-MoE)"),
    CHOICE("moe.routing_group", STATE, moe.routing_group, DEFAULT("shard"), OF(ROUTING_GROUP_CHOICES),
        "tokens that compete for an expert's capacity (the groups of GShard, arXiv:2006.16668)"),
};
// clang-format on

// ---- rules --------------------------------------------------------------------------------------

static const char *word_of(const ModelConfig *model, int64_t layer) {
    return choice_row(FEED_FORWARD_CHOICES, (int)model_feed_forward(model, layer))->word;
}

// " in layer 3", where layers differ; empty where they do not.
static void name_layer(const MoeConfig *moe, int64_t layer, char place[32]) {
    place[0] = '\0';
    if (moe->experts.count > 1 || moe->top_k.count > 1)
        snprintf(place, 32, " in layer %lld", (long long)layer);
}

// Groups are equal, and those chosen hold all that a token needs.
// Documents have lengths of their own.
static bool check_document_groups(const MoeConfig *moe, const OptionRules *rules) {
    if (moe->routing_group != GROUP_DOCUMENT) return true;
    if (moe->dispatch == DISPATCH_PADDED)
        return option_broken(rules, "moe.routing_group", "moe.dispatch",
                             "moe.routing_group: document has a capacity for each length, and "
                             "moe.dispatch: padded sends one; set moe.dispatch=exact, or "
                             "moe.routing_group=sequence");
    if (moe->router.kind == EXPERT_CHOICE)
        return option_broken(rules, "moe.routing_group", "moe.router",
                             "moe.router: expert_choice takes as many tokens of each group, and "
                             "documents differ in length; set moe.routing_group=sequence");
    return true;
}

static bool check_groups(const MoeConfig *moe, MoeShape shape, const char *place,
                         const OptionRules *rules) {
    RouterRule rule = moe->router;
    if (rule.groups > 1 && (rule.kind == HASH || rule.kind == EXPERT_CHOICE))
        return option_broken(rules, "moe.groups", "moe.router",
                             "moe.groups (%lld) limit the choices of tokens by scores, which this "
                             "moe.router does not make; leave out moe.groups",
                             (long long)rule.groups);
    if (rule.top_groups > rule.groups)
        return option_broken(rules, "moe.top_groups", "moe.groups",
                             "moe.top_groups (%lld) is more than moe.groups (%lld); set it to at "
                             "most that",
                             (long long)rule.top_groups, (long long)rule.groups);
    if (shape.experts % rule.groups != 0) {
        char list[160];
        option_list_divisors(shape.experts, 0, list);
        return option_broken(rules, "moe.groups", "moe.experts",
                             "moe.groups (%lld) does not divide moe.experts (%lld)%s; set it to "
                             "one of %s",
                             (long long)rule.groups, (long long)shape.experts, place, list);
    }
    int64_t within = rule.top_groups * (shape.experts / rule.groups);
    if (shape.top_k > within)
        return option_broken(rules, "moe.top_groups", "moe.top_k",
                             "the best %lld of moe.groups (%lld) have %lld experts, fewer than "
                             "moe.top_k (%lld)%s; set moe.top_groups to at least %lld",
                             (long long)rule.top_groups, (long long)rule.groups, (long long)within,
                             (long long)shape.top_k, place,
                             (long long)((shape.top_k * rule.groups - 1) / shape.experts + 1));
    return true;
}

// The sizes of one layer with experts.
static bool check_layer(const ModelConfig *model, int64_t layer, const OptionRules *rules) {
    const MoeConfig *moe = &model->moe;
    MoeShape shape = moe_shape(model, layer);
    char place[32];
    name_layer(moe, layer, place);
    if (shape.experts == 0)
        return option_broken(rules, "model.feed_forward", "moe.experts",
                             "model.feed_forward says %s for layer %lld, where moe.experts is 0; "
                             "say dense there, or set moe.experts above 0",
                             word_of(model, layer), (long long)layer);
    if (shape.top_k > shape.experts)
        return option_broken(
            rules, "moe.top_k", "moe.experts",
            "moe.top_k (%lld) is more than moe.experts (%lld)%s; set it to at most %lld",
            (long long)shape.top_k, (long long)shape.experts, place, (long long)shape.experts);
    bool weight_is_one = router_single_weight_is_1(moe->router) || moe->renormalize_after_drop;
    if (shape.top_k == 1 && weight_is_one && moe_has_gate(moe))
        return option_broken(
            rules, "moe.top_k", "moe.experts",
            "moe.top_k (1)%s with this gate weight is always 1, so the router would get no "
            "gradient; set moe.router=topk_softmax%s%s, or moe.top_k=2",
            place, moe->router.normalize_top_k ? " moe.normalize_top_k=false" : "",
            moe->renormalize_after_drop ? " moe.renormalize_after_drop=false" : "");
    bool over_chosen = router_weighing(moe->router, shape.top_k) == WEIGH_OVER_CHOSEN;
    if (moe->router.normalize_top_k && !over_chosen)
        return option_broken(rules, "moe.normalize_top_k", "moe.router",
                             "moe.normalize_top_k is of moe.router=topk_softmax; the weights of "
                             "this moe.router%s do not sum to 1: set moe.normalize_top_k=false",
                             place);
    return check_groups(moe, shape, place, rules);
}

// Which layers have experts is said by model.feed_forward or by moe.every and moe.first; where all
// are given they agree, or the latter are as they are when nobody says anything.
static bool check_places(const ModelConfig *model, const OptionRules *rules) {
    const MoeConfig *moe = &model->moe;
    bool given = rules->is_given(rules, "model.feed_forward"), any = false, due = false;
    bool counts = moe->every != 1 || !moe->first;
    for (int64_t layer = 0; layer < model->layers; layer++) {
        bool is_moe = model_is_routed(model, layer);
        bool has_experts = layer_value(&moe->experts, layer) > 0;
        any = any || has_experts;
        due = due || moe_is_due(moe, layer);
        if (given && counts && is_moe != (has_experts && moe_is_due(moe, layer)))
            return option_broken(
                rules, "moe.every", "model.feed_forward",
                "model.feed_forward says %s for layer %lld, but moe.every (%lld) and moe.first "
                "(%s) say the reverse; leave out either model.feed_forward or the other two",
                word_of(model, layer), (long long)layer, (long long)moe->every,
                moe->first ? "true" : "false");
    }
    if (!given && any && !due)
        return option_broken(
            rules, "moe.every", "model.layers",
            "moe.every (%lld) is more than model.layers (%lld), so no layer has experts; "
            "set it to at most %lld, or moe.first=true, or moe.experts=0",
            (long long)moe->every, (long long)model->layers, (long long)model->layers);
    return true;
}

// Sinkhorn's iterations decide about the choices, and leave no place for what else does.
static bool check_sinkhorn(const MoeConfig *moe, const OptionRules *rules) {
    if (moe->router.kind != SINKHORN) return true;
    if (moe->bias_update != BIAS_UPDATE_NONE)
        return option_broken(rules, "moe.bias_update", "moe.router",
                             "moe.router=sinkhorn evens out the load by itself, moe.bias_update "
                             "would do it again; set moe.bias_update=none");
    if (moe->router.groups > 1)
        return option_broken(rules, "moe.groups", "moe.router",
                             "moe.router=sinkhorn has no groups; leave out moe.groups (%lld)",
                             (long long)moe->router.groups);
    return true;
}

// What changes nothing without another key.
static bool check_unread(const MoeConfig *moe, const OptionRules *rules) {
    if (moe->sinkhorn_iterations != 8 && moe->router.kind != SINKHORN)
        return option_broken(rules, "moe.sinkhorn_iterations", "moe.router",
                             "moe.sinkhorn_iterations is of moe.router=sinkhorn alone; set that, "
                             "or leave moe.sinkhorn_iterations out");
    if (moe->dropout_at != DROPOUT_HIDDEN && moe->dropout == 0)
        return option_broken(rules, "moe.dropout_at", "moe.dropout",
                             "moe.dropout_at says where moe.dropout drops, which is 0; set "
                             "moe.dropout, or leave moe.dropout_at out");
    return true;
}

static bool check_noise(const MoeConfig *moe, const OptionRules *rules) {
    if (!moe->noise_in_evaluation || moe->router.kind == NOISY_TOPK) return true;
    return option_broken(rules, "moe.noise_in_evaluation", "moe.router",
                         "moe.noise_in_evaluation is of moe.router=noisy_top_k; set that, or leave "
                         "the noise out");
}

// The factor is the sigmoid's, and nothing may divide it out again.
static bool check_scaling(const MoeConfig *moe, const OptionRules *rules) {
    double factor = moe->router.scaling_factor;
    if (factor == 1) return true;
    if (!router_scales(moe->router.kind))
        return option_broken(rules, "moe.scaling_factor", "moe.router",
                             "moe.scaling_factor (%g) is used by moe.router=sigmoid and "
                             "sqrtsoftplus alone; set one, or moe.scaling_factor=1",
                             factor);
    if (moe->renormalize_after_drop)
        return option_broken(rules, "moe.scaling_factor", "moe.renormalize_after_drop",
                             "moe.renormalize_after_drop makes the weights sum to 1, whatever "
                             "moe.scaling_factor (%g) says; set that to 1, or "
                             "moe.renormalize_after_drop=false",
                             factor);
    return true;
}

// Routed layers that are residual, or that are not.
static bool has_layers(const ModelConfig *model, bool residual) {
    for (int64_t layer = 0; layer < model->layers; layer++)
        if (model_is_routed(model, layer) && moe_shape(model, layer).residual == residual)
            return true;
    return false;
}

static bool check_shared(const ModelConfig *model, const OptionRules *rules) {
    const MoeConfig *moe = &model->moe;
    if (moe->shared_gate && has_layers(model, true) && !has_layers(model, false))
        return option_broken(rules, "moe.shared_gate", "model.feed_forward",
                             "moe.shared_gate is of layers that add shared experts, and pr_moe "
                             "layers mix theirs; set moe.shared_gate=false");
    if (moe->shared_experts > 0 || has_layers(model, true)) return true;
    if (moe->shared_d_ff > 0)
        return option_broken(rules, "moe.shared_d_ff", "moe.shared_experts",
                             "moe.shared_d_ff is the width of shared experts, and "
                             "moe.shared_experts is 0; set moe.shared_experts=1 or leave the width "
                             "out");
    if (moe->shared_gate)
        return option_broken(rules, "moe.shared_gate", "moe.shared_experts",
                             "moe.shared_gate is of shared experts, and moe.shared_experts is 0; "
                             "set moe.shared_experts=1 or moe.shared_gate=false");
    return true;
}

// A derived value is as good as none.
static bool check_latent(const ModelConfig *model, const OptionRules *rules) {
    int64_t width = model->moe.latent_width;
    bool any = model_has_feed_forward(model, FEED_FORWARD_LATENT_MOE);
    if (!any && width != usual_latent_width(model))
        return option_broken(rules, "moe.latent_width", "model.feed_forward",
                             "moe.latent_width is of latent_moe layers, and there are none; set "
                             "model.feed_forward=latent_moe, or leave it out");
    if (any && width >= model->d_model)
        return option_broken(rules, "moe.latent_width", "model.d_model",
                             "moe.latent_width (%lld) is not narrower than model.d_model (%lld); "
                             "set it to less, or model.feed_forward=moe",
                             (long long)width, (long long)model->d_model);
    return true;
}

static bool check(const void *section, const OptionRules *rules) {
    const ModelConfig *model = section;
    const MoeConfig *moe = &model->moe;
    bool any = false;
    for (int64_t layer = 0; layer < model->layers; layer++) {
        if (!model_is_routed(model, layer)) continue;
        if (!check_layer(model, layer, rules)) return false;
        any = true;
    }
    if (!check_places(model, rules) || !check_scaling(moe, rules) || !check_shared(model, rules) ||
        !check_latent(model, rules) || !check_noise(moe, rules) || !check_sinkhorn(moe, rules) ||
        !check_unread(moe, rules) || !check_document_groups(moe, rules))
        return false;
    bool dropless = moe->capacity_factor.numerator == 0 && moe->router.kind != EXPERT_CHOICE;
    if (any && moe->dispatch == DISPATCH_PADDED && dropless)
        return option_broken(rules, "moe.dispatch", "moe.capacity_factor",
                             "moe.dispatch: padded sends every expert's whole capacity, but "
                             "moe.capacity_factor is 0 (dropless); set moe.capacity_factor=1.25 or "
                             "moe.dispatch=exact");
    return true;
}

const OptionSection MOE_OPTIONS = SECTION(ROWS, check);
