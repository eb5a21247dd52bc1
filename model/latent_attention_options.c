#include "kernels/integers.h"
#include "kernels/option_rows.h"
#include "model/rope.h"

static bool has_latents(const ModelConfig *model) {
    return model_has_mixer(model, MIXER_LATENT_ATTENTION);
}

static void derive_d_rope(void *section) {
    ModelConfig *model = section;
    AttentionConfig *attention = &model->attention;
    int64_t d_head = attention->shape.d_head;
    attention->d_rope = 2 * rope_pairs(&attention->rope, d_head);
    if (has_latents(model) && attention->rope.fraction == 1)
        attention->d_rope = larger(d_head / 6 * 2, 2);
}

static void derive_kv_rank(void *section) {
    ModelConfig *model = section;
    model->attention.kv_rank = has_latents(model) ? larger(model->d_model / 4, 1) : 0;
}

// clang-format off
#define SECTION_STRUCT ModelConfig
static const Option ROWS[] = {
    INTEGER("attention.d_rope", FUNCTION, attention.d_rope,
        DERIVED("attention.rope_fraction attention.d_head; with model.mixer: latent_attention and no fraction a third of it",
                derive_d_rope), RANGE(2, 4096),
        "channels of a query or key head that RoPE turns, its first; in latent_attention those of the key that all "
        "heads share (DeepSeek-V2, arXiv:2405.04434: qk_rope_head_dim)"),
    INTEGER("attention.kv_rank", FUNCTION, attention.kv_rank,
        DERIVED("model.d_model / 4 with model.mixer: latent_attention, otherwise 0", derive_kv_rank), RANGE(0, 65536),
        "latent_attention: width of the latent of keys and values, which is cached (DeepSeek-V2, arXiv:2405.04434)"),
    INTEGER("attention.q_rank", FUNCTION, attention.q_rank, DEFAULT("0"), RANGE(0, 65536),
        "latent_attention: width of the queries' latent; 0: none, queries are projected at once (DeepSeek-V2-Lite)"),
};
// clang-format on

// Of a model without latent attention.
static bool check_unused(const AttentionConfig *attention, const OptionRules *rules) {
    const char *key = attention->kv_rank > 0  ? "attention.kv_rank"
                      : attention->q_rank > 0 ? "attention.q_rank"
                                              : NULL;
    return !key || option_broken(rules, key, "model.mixer",
                                 "%s is of latent attention, which no layer has; set "
                                 "model.mixer=latent_attention, or leave it out",
                                 key);
}

// What acts on queries, keys or outputs of plain attention alone.
static bool check_of_attention(const AttentionConfig *attention, const OptionRules *rules) {
    const char *key = attention->gate != GATE_NONE ? "attention.gate"
                      : attention->max_logits      ? "attention.max_logits"
                                                   : NULL;
    return !key || option_broken(rules, key, "model.mixer",
                                 "%s is of model.mixer=attention alone, and some layer is "
                                 "latent_attention; leave it out",
                                 key);
}

static bool check_latents(const ModelConfig *model, const OptionRules *rules) {
    const AttentionConfig *attention = &model->attention;
    AttentionShape shape = attention->shape;
    if (attention->kv_rank == 0)
        return option_broken(rules, "attention.kv_rank", "model.mixer",
                             "attention.kv_rank is 0, but model.mixer=latent_attention has no "
                             "other keys and values; set it to %lld or leave it out",
                             (long long)larger(model->d_model / 4, 1));
    if (shape.kv_heads != shape.heads)
        return option_broken(rules, "attention.kv_heads", "model.mixer",
                             "attention.kv_heads (%lld) is not attention.heads (%lld), but "
                             "model.mixer=latent_attention makes keys and values for each head of "
                             "its latent; leave it out",
                             (long long)shape.kv_heads, (long long)shape.heads);
    if (attention->qk_norm != QK_NORM_NONE)
        return option_broken(rules, "attention.qk_norm", "model.mixer",
                             "attention.qk_norm norms whole queries and keys, but "
                             "model.mixer=latent_attention norms their latents; leave it out");
    if (attention->d_rope == 0 || attention->d_rope >= shape.d_head)
        return option_broken(rules, "attention.d_rope", "attention.d_head",
                             "attention.d_rope is %lld of attention.d_head's %lld channels, but "
                             "model.mixer=latent_attention wants some of both kinds; set it to a "
                             "third of them, or a larger attention.d_head",
                             (long long)attention->d_rope, (long long)shape.d_head);
    return check_of_attention(attention, rules);
}

static bool check(const void *section, const OptionRules *rules) {
    const ModelConfig *model = section;
    const AttentionConfig *attention = &model->attention;
    int64_t pairs = rope_pairs(&attention->rope, attention->shape.d_head);
    if (attention->d_rope % 2 != 0 || attention->d_rope > attention->shape.d_head)
        return option_broken(rules, "attention.d_rope", "attention.d_head",
                             "attention.d_rope (%lld) must be even, because RoPE turns pairs, and "
                             "at most attention.d_head (%lld); set it to %lld",
                             (long long)attention->d_rope, (long long)attention->shape.d_head,
                             (long long)(attention->shape.d_head / 2 * 2));
    if (attention->rope.fraction != 1 && attention->d_rope != 2 * pairs)
        return option_broken(rules, "attention.d_rope", "attention.rope_fraction",
                             "attention.d_rope (%lld) and attention.rope_fraction (%g, so %lld "
                             "channels) say different things; leave one of them out",
                             (long long)attention->d_rope, attention->rope.fraction,
                             (long long)(2 * pairs));
    return has_latents(model) ? check_latents(model, rules) : check_unused(attention, rules);
}

const OptionSection LATENT_ATTENTION_OPTIONS = SECTION(ROWS, check);
