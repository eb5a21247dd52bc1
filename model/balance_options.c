#include "kernels/option_rows.h"
#include "model/model_config.h"

// ---- words --------------------------------------------------------------------------------------

static const Choice BALANCE_SCOPES[] = {
    [BALANCE_SHARD] = {"shard", "the tokens of one of train.shards"},
    [BALANCE_SEQUENCE] = {"sequence", "the tokens of one sequence"},
    [BALANCE_BATCH] = {"batch", "the tokens of a whole micro-batch, on all ranks"},
    [BALANCE_STEP] = {"step",
                      "those of all micro-batches of the step so far, on all ranks: the global "
                      "batch of Qwen3 (arXiv:2501.11873)"},
    [BALANCE_DOCUMENT] = {"document",
                          "the tokens of one document in a sequence, with data.documents: mask; of "
                          "kind load"},
};
const ChoiceTable BALANCE_SCOPE_CHOICES = CHOICE_TABLE(BALANCE_SCOPES);

static const Choice BALANCE_KINDS[] = {
    [BALANCE_LOAD] = {"load", "experts * sum over experts of the share of choices times the mean "
                              "probability (Switch, arXiv:2101.03961)"},
    [BALANCE_IMPORTANCE] = {"importance",
                            "CV², variance over squared mean, of the experts' sums of "
                            "gate weights (Shazeer et al. 2017, arXiv:1701.06538); of each head "
                            "of switchhead layers, too"},
    [BALANCE_NOISY_LOAD] = {"noisy_load", "CV² of the sums of the probabilities that noise drawn "
                                          "anew chooses an expert (its appendix A); of "
                                          "noisy_top_k"},
};
const ChoiceTable BALANCE_KIND_CHOICES = CHOICE_TABLE(BALANCE_KINDS);

static const Choice BALANCE_SHARES[] = {
    [SHARE_OF_CHOICES] = {"choices", "of all choices: the shares sum to 1 (Switch, Megatron)"},
    [SHARE_OF_TOKENS] = {"tokens",
                         "of all tokens: they sum to moe.top_k, and so does the loss of an "
                         "even load (Mixtral and OLMoE in transformers)"},
};
const ChoiceTable BALANCE_SHARE_CHOICES = CHOICE_TABLE(BALANCE_SHARES);

static const Choice BALANCE_CHOICES[] = {
    [BALANCE_ALL_CHOICES] = {"all", "each of a token's choices"},
    [BALANCE_FIRST_CHOICES] = {"first", "its best one alone, of which the shares sum to 1 (GShard, "
                                        "DeepSpeed, Tutel)"},
};
const ChoiceTable BALANCE_CHOICES_CHOICES = CHOICE_TABLE(BALANCE_CHOICES);

static const Choice BIAS_UPDATES[] = {
    [BIAS_UPDATE_NONE] = {"none", "there is no bias"},
    [BIAS_UPDATE_SIGN] = {"sign",
                          "after each step a step of moe.bias_rate towards the mean load, up or "
                          "down (DeepSeek-V3)"},
    [BIAS_UPDATE_PROPORTIONAL] = {"proportional",
                                  "moe.bias_rate times the share by which the load is below the "
                                  "mean (the softmax variant of arXiv:2408.15664, over the mean)"},
    [BIAS_UPDATE_QUANTILE] = {"quantile",
                              "what would have given each expert its share of the step's tokens "
                              "(Marin; Megatron's quantile balancing)"},
};
const ChoiceTable BIAS_UPDATE_CHOICES = CHOICE_TABLE(BIAS_UPDATES);

// ---- keys ---------------------------------------------------------------------------------------

static void derive_balance(void *section) {
    MoeConfig *moe = &((ModelConfig *)section)->moe;
    moe->balance.count = 1;
    moe->balance.maps[0] = (BalanceTerm){BALANCE_LOAD, (int)moe->balance_scope, moe->balance_loss};
}

// clang-format off
#define SECTION_STRUCT BalanceTerm
static const Option TERM_FIELDS[] = {
    CHOICE("kind", NONE, kind, DEFAULT("load"), OF(BALANCE_KIND_CHOICES),
        "what is made even"),
    CHOICE("scope", NONE, scope, DEFAULT("shard"), OF(BALANCE_SCOPE_CHOICES),
        "tokens over which it is made even"),
    NUMBER("factor", NONE, factor, DEFAULT("0.01"), RANGE(0, 1000),
        "what the loss is multiplied with; 0: it is measured alone"),
};
static const OptionMap TERM_MAP = MAP_FIELDS(TERM_FIELDS, BalanceTerms);
#undef SECTION_STRUCT

#define SECTION_STRUCT ModelConfig
static const Option ROWS[] = {
    NUMBER("moe.balance_loss", COURSE, moe.balance_loss, DEFAULT("0.01"), RANGE(0, 1000),
        "factor of the load-balancing loss (Switch, arXiv:2101.03961: 0.01); 0: off"),
    CHOICE("moe.balance_scope", COURSE, moe.balance_scope, DEFAULT("shard"), OF(BALANCE_SCOPE_CHOICES),
        "tokens over which the load is balanced"),
    CHOICE("moe.balance_share", COURSE, moe.balance_share, DEFAULT("choices"), OF(BALANCE_SHARE_CHOICES),
        "what an expert's choices are a share of in the load-balancing loss"),
    CHOICE("moe.balance_choices", COURSE, moe.balance_choices, DEFAULT("all"), OF(BALANCE_CHOICES_CHOICES),
        "which choices the load-balancing loss counts (GShard, arXiv:2006.16668: the first)"),
    MAPS("moe.balance", COURSE, moe.balance, DERIVED("moe.balance_scope and moe.balance_loss", derive_balance), TERM_MAP,
        "balance losses, several at once; sequence and step together are those of DeepSeek-V3 (arXiv:2412.19437) and Qwen3"),
    CHOICE("moe.bias_update", FUNCTION, moe.bias_update, DEFAULT("none"), OF(BIAS_UPDATE_CHOICES),
        "a bias for each expert that is added to its score when experts are chosen, nowhere else, and evens out their load"),
    NUMBER("moe.bias_rate", COURSE, moe.bias_rate, DEFAULT("0.001"), RANGE(0, 1),
        "step of that bias; scores lie between 0 and 1 (DeepSeek-V3, arXiv:2412.19437: 0.001)"),
    NUMBER("moe.bias_ema", COURSE, moe.bias_ema, DEFAULT("0.5"), RANGE(0, 0.9999),
        "quantile: share of the bias that stays at each step (Megatron's quantile balancing)"),
    INTEGER("moe.bias_steps", COURSE, moe.bias_steps, DEFAULT("0"), RANGE(0, 9e15),
        "steps after which the bias stays as it is (DeepSeek-V3 ends it near the end of training); 0: it never does"),
    INTEGER("moe.bias_decay_steps", COURSE, moe.bias_decay_steps, DEFAULT("0"), RANGE(0, 9e15),
        "the last of moe.bias_steps, in which it moves less and less: by a factor that falls in a straight line to 0; 0: it "
        "stops at once"),
    NUMBER("moe.z_loss", COURSE, moe.z_loss, DEFAULT("0.001"), RANGE(0, 1000),
        "factor of the router's z-loss, which keeps its logits small (ST-MoE, arXiv:2202.08906: 0.001); 0: off"),
};
// clang-format on

// ---- rules --------------------------------------------------------------------------------------

// moe.balance_loss and moe.balance_scope are a short form of one term: where moe.balance is given,
// too, they say the same, or are as they are when nobody says anything.
static bool check_short_form(const MoeConfig *moe, const OptionRules *rules) {
    const BalanceTerm *only = &moe->balance.maps[0];
    bool same = moe->balance.count == 1 && only->kind == BALANCE_LOAD &&
                only->scope == (int)moe->balance_scope && only->factor == moe->balance_loss;
    bool said = moe->balance_loss != 0.01 || moe->balance_scope != BALANCE_SHARD;
    if (same || !said || !rules->is_given(rules, "moe.balance")) return true;
    return option_broken(rules, "moe.balance", "moe.balance_loss",
                         "moe.balance says something else than moe.balance_loss (%g) and "
                         "moe.balance_scope (%s); leave out either moe.balance or the other two",
                         moe->balance_loss,
                         choice_row(BALANCE_SCOPE_CHOICES, (int)moe->balance_scope)->word);
}

// Keys of a bias that the rule, or that nobody, reads.
static bool check_bias_unread(const MoeConfig *moe, const OptionRules *rules) {
    bool any = moe->bias_update != BIAS_UPDATE_NONE;
    bool quantile = moe->bias_update == BIAS_UPDATE_QUANTILE;
    const char *key = moe->bias_rate != 0.001 && (!any || quantile) ? "moe.bias_rate"
                      : moe->bias_ema != 0.5 && !quantile           ? "moe.bias_ema"
                      : moe->bias_steps > 0 && !any                 ? "moe.bias_steps"
                                                                    : NULL;
    return !key || option_broken(rules, key, "moe.bias_update",
                                 "%s is not of moe.bias_update=%s: moe.bias_rate is of sign and "
                                 "proportional, moe.bias_ema of quantile; leave it out, or set "
                                 "moe.bias_update",
                                 key, choice_row(BIAS_UPDATE_CHOICES, (int)moe->bias_update)->word);
}

// What looks at the expert after the chosen ones needs layers that leave some out.
static bool check_choice(const ModelConfig *model, const OptionRules *rules, const char *key,
                         const char *what, const char *fix) {
    for (int64_t layer = 0; layer < model->layers; layer++) {
        MoeShape shape = moe_shape(model, layer);
        if (!model_is_routed(model, layer) || shape.scored > shape.top_k) continue;
        return option_broken(rules, key, "moe.top_k",
                             "%s looks at the expert after the chosen ones, but moe.top_k (%lld) "
                             "takes all of them (%lld); %s",
                             what, (long long)shape.top_k, (long long)shape.scored, fix);
    }
    return true;
}

static bool check_bias(const ModelConfig *model, const OptionRules *rules) {
    const MoeConfig *moe = &model->moe;
    if (moe->bias_decay_steps > moe->bias_steps)
        return option_broken(
            rules, "moe.bias_decay_steps", "moe.bias_steps",
            "moe.bias_decay_steps (%lld) are the last of moe.bias_steps (%lld), so "
            "there are at most as many; set moe.bias_steps to the step at which "
            "the bias stops",
            (long long)moe->bias_decay_steps, (long long)moe->bias_steps);
    if (!check_bias_unread(moe, rules)) return false;
    if (moe->bias_update != BIAS_UPDATE_QUANTILE) return true;
    if (moe->router.groups > 1)
        return option_broken(rules, "moe.bias_update", "moe.groups",
                             "moe.bias_update: quantile takes the experts of a token to be the "
                             "best of all, and moe.groups (%lld) limits them to some; set "
                             "moe.bias_update=sign or moe.groups=1",
                             (long long)moe->router.groups);
    for (int64_t i = 0; i < moe->balance.count; i++)
        if (moe->balance.maps[i].factor > 0)
            return option_broken(rules, "moe.bias_update", "moe.balance_loss",
                                 "moe.bias_update: quantile balances alone, and a balance loss "
                                 "(%g) would push against it; set moe.balance_loss=0",
                                 moe->balance.maps[i].factor);
    return check_choice(model, rules, "moe.bias_update", "moe.bias_update: quantile",
                        "set moe.bias_update=none");
}

// Smooth load is that of noisy logits which choose, and where there is a choice.
static bool check_noisy_load(const ModelConfig *model, const OptionRules *rules) {
    const MoeConfig *moe = &model->moe;
    const struct {
        const char *key;
        bool used;
    } others[] = {
        {"moe.groups", moe->router.groups > 1},
        {"moe.bias_update", moe->bias_update != BIAS_UPDATE_NONE},
        {"moe.hash_layers", moe->hash_layers > 0},
    };
    if (moe->router.kind != NOISY_TOPK)
        return option_broken(rules, "moe.balance", "moe.router",
                             "moe.balance: {kind: noisy_load} asks for the noise of "
                             "moe.router=noisy_top_k; set that, or kind: importance");
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (others[i].used)
            return option_broken(rules, "moe.balance", others[i].key,
                                 "moe.balance: {kind: noisy_load} is of noisy logits that choose "
                                 "alone, and %s has a say, too; leave one of them out",
                                 others[i].key);
    return check_choice(model, rules, "moe.balance", "moe.balance: {kind: noisy_load}",
                        "set a smaller moe.top_k, or kind: importance");
}

// The slopes of a variation are those of the whole scope, whose later micro-batches nobody knows.
static bool check_variations(const ModelConfig *model, const OptionRules *rules) {
    const MoeConfig *moe = &model->moe;
    for (int64_t i = 0; i < moe->balance.count; i++) {
        BalanceTerm term = moe->balance.maps[i];
        if (term.kind == BALANCE_NOISY_LOAD && !check_noisy_load(model, rules)) return false;
        if (term.kind != BALANCE_LOAD && term.scope == BALANCE_DOCUMENT)
            return option_broken(rules, "moe.balance", NULL,
                                 "moe.balance: {kind: %s, scope: document}: a document has too few "
                                 "tokens for a variation; set kind: load, or scope: sequence",
                                 choice_row(BALANCE_KIND_CHOICES, term.kind)->word);
        if (term.kind == BALANCE_LOAD || term.scope != BALANCE_STEP) continue;
        return option_broken(rules, "moe.balance", NULL,
                             "moe.balance: {kind: %s, scope: step} would need the gradients of "
                             "micro-batches that are done, or are yet to come; set scope: batch",
                             choice_row(BALANCE_KIND_CHOICES, term.kind)->word);
    }
    return true;
}

static bool has_router(const ModelConfig *model) {
    for (int64_t layer = 0; layer < model->layers; layer++)
        if (model_is_routed(model, layer)) return true;
    return model_has_mixer(model, MIXER_MOA);
}

// A loss that somebody asks for, where the gates of heads alone choose; the default says nothing.
static bool check_heads(const ModelConfig *model, const OptionRules *rules) {
    const BalanceTerms *terms = &model->moe.balance;
    if (!model_has_mixer(model, MIXER_SWITCHHEAD) || has_router(model)) return true;
    for (int64_t i = 0; i < terms->count; i++) {
        BalanceTerm term = terms->maps[i];
        if (term.kind == BALANCE_IMPORTANCE || (terms->count == 1 && term.factor == 0.01)) continue;
        if (term.factor == 0) continue;
        return option_broken(rules, "moe.balance", "model.mixer",
                             "moe.balance: {kind: %s, factor: %g} is of experts that compete for "
                             "a token, and those of a switchhead layer's heads do not; set kind: "
                             "importance",
                             choice_row(BALANCE_KIND_CHOICES, term.kind)->word, term.factor);
    }
    return true;
}

static bool check(const void *section, const OptionRules *rules) {
    const MoeConfig *moe = &((const ModelConfig *)section)->moe;
    const BalanceTerms *terms = &moe->balance;
    for (int64_t i = 0; i < terms->count; i++)
        for (int64_t j = 0; j < i; j++)
            if (terms->maps[i].kind == terms->maps[j].kind &&
                terms->maps[i].scope == terms->maps[j].scope)
                return option_broken(
                    rules, "moe.balance", NULL,
                    "moe.balance has {kind: %s, scope: %s} twice; keep one, with the sum of both "
                    "factors (%g)",
                    choice_row(BALANCE_KIND_CHOICES, terms->maps[i].kind)->word,
                    choice_row(BALANCE_SCOPE_CHOICES, terms->maps[i].scope)->word,
                    terms->maps[i].factor + terms->maps[j].factor);
    return check_variations((const ModelConfig *)section, rules) && check_short_form(moe, rules) &&
           check_heads(section, rules) && check_bias(section, rules);
}

const OptionSection BALANCE_OPTIONS = SECTION(ROWS, check);
