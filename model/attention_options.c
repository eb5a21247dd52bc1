#include "kernels/option_rows.h"
#include "model/positions.h"

static void derive_kv_heads(void *section) {
    AttentionShape *shape = &((ModelConfig *)section)->attention.shape;
    shape->kv_heads = shape->heads;
}

static void derive_d_head(void *section) {
    ModelConfig *model = section;
    model->attention.shape.d_head = model->d_model / model->attention.shape.heads;
}

static void derive_d_value(void *section) {
    AttentionShape *shape = &((ModelConfig *)section)->attention.shape;
    shape->d_value = shape->d_head;
}

// clang-format off
#define SECTION_STRUCT ModelConfig
static const Option ROWS[] = {
    INTEGER("attention.heads", FUNCTION, attention.shape.heads, DEFAULT("4"), RANGE(1, 1024),
        "query heads"),
    INTEGER("attention.kv_heads", FUNCTION, attention.shape.kv_heads,
        DERIVED("attention.heads", derive_kv_heads), RANGE(1, 1024),
        "key/value heads: as many as attention.heads is MHA, fewer is GQA, 1 is MQA"),
    INTEGER("attention.d_head", FUNCTION, attention.shape.d_head,
        DERIVED("model.d_model / attention.heads", derive_d_head), RANGE(2, 4096),
        "width of a query or key head; even, because RoPE turns pairs"),
    INTEGER("attention.d_value", FUNCTION, attention.shape.d_value,
        DERIVED("attention.d_head", derive_d_value), RANGE(1, 4096),
        "width of a value head"),
    CHOICE("attention.positions", FUNCTION, attention.positions, DEFAULT("rope"),
        OF(POSITION_CHOICES),
        "how a token's position is known"),
    NUMBER("attention.rope_theta", FUNCTION, attention.rope_theta, DEFAULT("10000"), RANGE(1, 1e9),
        "RoPE: base of the wavelengths"),
    CHOICE("attention.softmax", FUNCTION, attention.softmax, DEFAULT("plain"),
        OF(ATTENTION_SOFTMAX_CHOICES),
        "what stands in the softmax's denominator beside the keys that a query sees"),
    CHOICE("attention.qk_norm", FUNCTION, attention.qk_norm, DEFAULT("none"), OF(QK_NORM_CHOICES),
        "norm of queries and keys before they are turned, so that scores cannot grow without bound (arXiv:2302.05442)"),
    INTEGERS("attention.window", FUNCTION, attention.window, DEFAULT("0"), RANGE(0, 1 << 30),
        "sliding window: a token sees so many, itself the last of them (Mistral, arXiv:2310.06825); 0: all before it"),
};
// clang-format on

static bool check(const void *section, const OptionRules *rules) {
    const ModelConfig *model = section;
    const AttentionShape *shape = &model->attention.shape;
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
    if (POSITION_RULES[model->attention.positions].turns_pairs && shape->d_head % 2 != 0)
        return option_broken(
            rules, "attention.d_head", "attention.heads",
            "attention.d_head (%lld) is odd, but RoPE turns pairs; set attention.d_head=%lld",
            (long long)shape->d_head, (long long)shape->d_head + 1);
    return true;
}

const OptionSection ATTENTION_OPTIONS = SECTION(ROWS, check);
