#include "kernels/option_rows.h"
#include "model/initialization.h"
#include "model/positions.h"
#include "model/rope.h"

static void derive_kv_heads(void *section) {
    ModelConfig *model = section;
    AttentionShape *shape = &model->attention.shape;
    shape->kv_heads = model_has_mixer(model, MIXER_MOA) ? 1 : shape->heads;
}

static void derive_d_head(void *section) {
    ModelConfig *model = section;
    model->attention.shape.d_head = model->d_model / model->attention.shape.heads;
}

static void derive_d_value(void *section) {
    AttentionShape *shape = &((ModelConfig *)section)->attention.shape;
    shape->d_value = shape->d_head;
}

static void derive_mup_base_d_head(void *section) {
    ModelConfig *model = section;
    model->mup_base_d_head = model->attention.shape.d_head;
}

static void derive_scale(void *section) {
    ModelConfig *model = section;
    AttentionConfig *attention = &model->attention;
    attention->scale = 0; // the usual one
    attention->scale =
        model->mup_base_width > 0 ? mup_attention_scale(model) : attention_scale(attention);
}

static void derive_attention_factor(void *section) {
    RopeConfig *rope = &((ModelConfig *)section)->attention.rope;
    rope->attention_factor = rope_default_attention_factor(rope);
}

static void derive_beta_fast(void *section) {
    RopeConfig *rope = &((ModelConfig *)section)->attention.rope;
    rope->beta_fast = rope_default_beta_fast(rope);
}

static void derive_dropout(void *section) {
    ModelConfig *model = section;
    model->attention.dropout = model->dropout;
}

// clang-format off
#define SECTION_STRUCT ModelConfig
static const Option ROWS[] = {
    INTEGER("attention.heads", FUNCTION, attention.shape.heads, DEFAULT("4"), RANGE(1, 1024),
        "query heads (arXiv:1706.03762); in moa layers those that a token chooses among attention.experts"),
    INTEGER("attention.kv_heads", FUNCTION, attention.shape.kv_heads,
        DERIVED("attention.heads; with model.mixer: moa 1", derive_kv_heads), RANGE(1, 1024),
        "key/value heads: as many as attention.heads is MHA, fewer is GQA (arXiv:2305.13245), 1 is MQA (arXiv:1911.02150)"),
    INTEGER("attention.d_head", FUNCTION, attention.shape.d_head,
        DERIVED("model.d_model / attention.heads", derive_d_head), RANGE(2, 4096),
        "width of a query or key head; even, because RoPE turns pairs"),
    INTEGER("attention.d_value", FUNCTION, attention.shape.d_value,
        DERIVED("attention.d_head", derive_d_value), RANGE(1, 4096),
        "width of a value head"),
    INTEGER("attention.mup_base_d_head", FUNCTION, mup_base_d_head,
        DERIVED("attention.d_head", derive_mup_base_d_head), RANGE(1, 4096),
        "muP (arXiv:2203.03466): attention.d_head of the base model of model.mup_base_width, where heads grow with the width"),
    NUMBER("attention.scale", FUNCTION, attention.scale,
        DERIVED("attention.d_head^-0.5; with model.mup_base_width attention.mup_base_d_head^0.5 / attention.d_head",
                derive_scale), RANGE(1e-9, 1e9),
        "what the products of queries and keys are multiplied by (arXiv:1706.03762)"),
    CHOICES("attention.positions", FUNCTION, attention.positions, DEFAULT("rope"),
        OF(POSITION_CHOICES),
        "how a token's position is known, in each layer: [rope, rope, rope, none] leaves out every fourth (SmolLM3)"),
    NUMBER("attention.rope_theta", FUNCTION, attention.rope_theta, DEFAULT("10000"), RANGE(1, 1e9),
        "RoPE (arXiv:2104.09864): base of the wavelengths"),
    NUMBER("attention.rope_fraction", FUNCTION, attention.rope.fraction, DEFAULT("1"), RANGE(0.001, 1),
        "RoPE: share of attention.d_head that is turned, its first channels (GPT-NeoX, Phi)"),
    CHOICE("attention.rope_scaling", FUNCTION, attention.rope.scaling, DEFAULT("none"),
        OF(ROPE_SCALING_CHOICES),
        "RoPE: how it reaches past the context that the weights were trained with"),
    NUMBER("attention.rope_factor", FUNCTION, attention.rope.factor, DEFAULT("1"), RANGE(1, 1e6),
        "rope_scaling: how many times longer the context becomes (arXiv:2306.15595)"),
    INTEGER("attention.rope_original_context", FUNCTION, attention.rope.original_context, DEFAULT("0"),
        RANGE(0, 1 << 30),
        "rope_scaling yarn (arXiv:2309.00071) and llama3: tokens of the context before; 0: not given"),
    NUMBER("attention.rope_beta_fast", FUNCTION, attention.rope.beta_fast,
        DERIVED("4 with attention.rope_scaling: llama3, otherwise 32", derive_beta_fast), RANGE(1e-3, 1e6),
        "rope_scaling yarn (arXiv:2309.00071) and llama3 (high_freq_factor): pairs that turn more often over the original "
        "context keep their angles"),
    NUMBER("attention.rope_beta_slow", FUNCTION, attention.rope.beta_slow, DEFAULT("1"), RANGE(1e-3, 1e6),
        "rope_scaling yarn (arXiv:2309.00071) and llama3 (low_freq_factor): pairs that turn less often are slowed by the whole "
        "factor"),
    FLAG("attention.rope_truncate", FUNCTION, attention.rope.truncate, DEFAULT("true"),
        "rope_scaling yarn: whether its limits are rounded outwards to whole pairs (arXiv:2309.00071); gpt-oss does not "
        "(arXiv:2508.10925)"),
    NUMBER("attention.rope_attention_factor", FUNCTION, attention.rope.attention_factor,
        DERIVED("0.1 ln attention.rope_factor + 1 with attention.rope_scaling: yarn, otherwise 1", derive_attention_factor),
        RANGE(1e-3, 1e3),
        "RoPE: what turned queries and keys are multiplied by, each: YaRN's temperature^-0.5 (arXiv:2309.00071)"),
    CHOICE("attention.softmax", FUNCTION, attention.softmax, DEFAULT("plain"),
        OF(ATTENTION_SOFTMAX_CHOICES),
        "what stands in the softmax's denominator beside the keys that a query sees"),
    CHOICE("attention.qk_norm", FUNCTION, attention.qk_norm, DEFAULT("none"), OF(QK_NORM_CHOICES),
        "norm of queries and keys before they are turned, so that scores cannot grow without bound (arXiv:2302.05442)"),
    NUMBER("attention.softcap", FUNCTION, attention.softcap, DEFAULT("0"), RANGE(0, 1e6),
        "scores become softcap tanh(score / softcap), so that none is larger (Gemma 2, arXiv:2408.00118: 50); 0: they stay"),
    CHOICE("attention.gate", FUNCTION, attention.gate, DEFAULT("none"), OF(ATTENTION_GATE_CHOICES),
        "what the heads' outputs are multiplied by before their projection (arXiv:2505.06708)"),
    NUMBER("attention.dropout", COURSE, attention.dropout, DERIVED("train.dropout", derive_dropout), RANGE(0, 0.99),
        "chance of a probability of attention to become 0 while training, to a multiple of 2^-16 (GPT-2; makeMoE)"),
    FLAG("attention.max_logits", FREE, attention.max_logits, DEFAULT("false"),
        "whether each step tells the largest score of each head, before softcap (Kimi K2, arXiv:2507.20534)"),
    INTEGERS("attention.window", FUNCTION, attention.window, DEFAULT("0"), RANGE(0, 1 << 30),
        "sliding window: a token sees so many, itself the last of them (Mistral, arXiv:2310.06825); 0: all before it"),
};
// clang-format on

static bool check_rope(const AttentionConfig *attention, const OptionRules *rules) {
    const RopeConfig *rope = &attention->rope;
    bool scaled = rope->scaling != ROPE_AS_TRAINED;
    if (scaled && rope->factor <= 1)
        return option_broken(rules, "attention.rope_scaling", "attention.rope_factor",
                             "attention.rope_scaling %s with attention.rope_factor 1 changes "
                             "nothing; set how many times longer the context becomes",
                             choice_row(ROPE_SCALING_CHOICES, (int)rope->scaling)->word);
    if (!scaled && rope->factor > 1)
        return option_broken(rules, "attention.rope_factor", NULL,
                             "attention.rope_factor %g wants attention.rope_scaling=linear, ntk, "
                             "yarn or llama3",
                             rope->factor);
    const char *word = choice_row(ROPE_SCALING_CHOICES, (int)rope->scaling)->word;
    double fast = rope_default_beta_fast(rope);
    bool turns = rope_counts_turns(rope);
    const char *unread = rope->original_context > 0 ? "attention.rope_original_context"
                         : rope->beta_fast != fast  ? "attention.rope_beta_fast"
                         : rope->beta_slow != 1     ? "attention.rope_beta_slow"
                                                    : NULL;
    if (!turns && unread)
        return option_broken(rules, unread, "attention.rope_scaling",
                             "%s is of attention.rope_scaling=yarn and llama3 alone; set one of "
                             "them, or leave it out",
                             unread);
    if (rope->scaling != ROPE_YARN && !rope->truncate)
        return option_broken(rules, "attention.rope_truncate", "attention.rope_scaling",
                             "attention.rope_truncate is of attention.rope_scaling=yarn alone; set "
                             "that, or leave it out");
    if (turns && rope->original_context == 0)
        return option_broken(rules, "attention.rope_scaling", NULL,
                             "attention.rope_scaling %s wants attention.rope_original_context, "
                             "the train.context that the weights were trained with",
                             word);
    if (rope->scaling == ROPE_YARN && attention->rope_theta <= 1)
        return option_broken(rules, "attention.rope_theta", "attention.rope_scaling",
                             "attention.rope_theta 1 turns all pairs alike, and yarn has none to "
                             "tell apart; set it to 10000 or so");
    if (turns && rope->beta_fast <= rope->beta_slow)
        return option_broken(rules, "attention.rope_beta_fast", "attention.rope_beta_slow",
                             "attention.rope_beta_fast (%g) is not above attention.rope_beta_slow "
                             "(%g); the defaults are %g and 1",
                             rope->beta_fast, rope->beta_slow, fast);
    if (rope_pairs(rope, attention->shape.d_head) == 0)
        return option_broken(rules, "attention.rope_fraction", "attention.d_head",
                             "attention.rope_fraction %g of attention.d_head (%lld) is no pair of "
                             "channels; set it to %g or more, or attention.positions=none",
                             rope->fraction, (long long)attention->shape.d_head,
                             2.0 / (double)attention->shape.d_head);
    return true;
}

// Rules of layers that do not go together, and keys that no layer asks for.
static bool check_positions(const ModelConfig *model, const OptionRules *rules) {
    const AttentionConfig *attention = &model->attention;
    for (int64_t layer = 1; layer < model->layers; layer++) {
        PositionKind kinds[] = {model_positions(model, 0), model_positions(model, layer)};
        for (int i = 0; i < 2; i++)
            if (kinds[0] != kinds[1] && POSITION_RULES[kinds[i]].of_model)
                return option_broken(
                    rules, "attention.positions", NULL,
                    "attention.positions has %s beside %s, but it is added to the tokens' vectors, "
                    "for all layers; set attention.positions=%s or leave it out of the list",
                    POSITION_RULES[kinds[i]].choice.word, POSITION_RULES[kinds[1 - i]].choice.word,
                    POSITION_RULES[kinds[i]].choice.word);
    }
    if (positions_include(model, POSITIONS_ROPE)) return check_rope(attention, rules);
    const char *key = attention->rope.scaling != ROPE_AS_TRAINED ? "attention.rope_scaling"
                      : attention->rope.fraction != 1            ? "attention.rope_fraction"
                      : attention->rope.factor != 1              ? "attention.rope_factor"
                                                                 : NULL;
    return !key || option_broken(rules, key, "attention.positions",
                                 "%s is of RoPE, but no layer has attention.positions rope; leave "
                                 "it out or set attention.positions=rope",
                                 key);
}

static bool check_mup(const ModelConfig *model, const OptionRules *rules) {
    if (model->mup_base_width > 0 || model->mup_base_d_head == model->attention.shape.d_head)
        return true;
    return option_broken(rules, "attention.mup_base_d_head", "model.mup_base_width",
                         "attention.mup_base_d_head (%lld) is of muP, and model.mup_base_width is "
                         "0; set that to the base model's width or leave the head's out",
                         (long long)model->mup_base_d_head);
}

static bool check(const void *section, const OptionRules *rules) {
    const ModelConfig *model = section;
    const AttentionShape *shape = &model->attention.shape;
    if (!check_mup(model, rules)) return false;
    char list[160];
    if (shape->heads % shape->kv_heads != 0) {
        option_list_divisors(shape->heads, 0, list);
        return option_broken(
            rules, "attention.kv_heads", "attention.heads",
            "attention.kv_heads (%lld) does not divide attention.heads (%lld); set it to one of %s",
            (long long)shape->kv_heads, (long long)shape->heads, list);
    }
    if (!rules->is_given(rules, "attention.d_head") && model->d_model % shape->heads != 0) {
        option_list_divisors(model->d_model, 0, list);
        return option_broken(rules, "attention.heads", "model.d_model",
                             "attention.heads (%lld) does not divide model.d_model (%lld); set it "
                             "to one of %s, or give attention.d_head",
                             (long long)shape->heads, (long long)model->d_model, list);
    }
    if (positions_include(model, POSITIONS_ROPE) && shape->d_head % 2 != 0)
        return option_broken(
            rules, "attention.d_head", "attention.heads",
            "attention.d_head (%lld) is odd, but RoPE turns pairs; set attention.d_head=%lld",
            (long long)shape->d_head, (long long)shape->d_head + 1);
    return check_positions(model, rules);
}

const OptionSection ATTENTION_OPTIONS = SECTION(ROWS, check);
