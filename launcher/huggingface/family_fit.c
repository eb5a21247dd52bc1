#include "launcher/huggingface/family_fit.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launcher/config_print.h"
#include "launcher/config_value.h"
#include "model/rope.h"
#include "model/shared_experts.h"

enum { WANTED_BYTES = 96, MISFITS_BYTES = 640 };

// ---- values -------------------------------------------------------------------------------------

char *key_text(const Config *config, const char *key) {
    int row = config_key_find(key);
    CHECK(row >= 0, "there is no key %s", key);
    return config_key_text(config, row);
}

// What the key is when it is left out, beside the values of all others.
static char *default_text(const Config *config, int row) {
    Config *copy = config_copy(config);
    const Option *key = config_key(row);
    Error err = {0};
    if (!key->initial)
        config_key_derive(&copy->train, row);
    else
        CHECK(config_value_parse(key, key->initial, "", config_key_field(&copy->train, row), &err),
              "%s", err.message);
    char *text = config_key_text(copy, row);
    free(copy);
    return text;
}

bool moe_value(const ModelConfig *model, const PerLayer *list, int64_t *value) {
    bool any = false;
    for (int64_t layer = 0; layer < model->layers; layer++) {
        if (model_feed_forward(model, layer) != FEED_FORWARD_MOE) continue;
        if (any && layer_value(list, layer) != *value) return false;
        *value = layer_value(list, layer);
        any = true;
    }
    return any;
}

static int64_t layers_of(const ModelConfig *model, FeedForwardKind kind) {
    int64_t count = 0;
    for (int64_t layer = 0; layer < model->layers; layer++)
        count += model_feed_forward(model, layer) == kind;
    return count;
}

// ---- keys that need more than a comparison ------------------------------------------------------

// Whether the family has the key's value; otherwise what it has goes to `wanted`. A key without
// such a function is a field, a fact or its default.
typedef bool (*Fits)(const Family *family, const ModelConfig *model, char wanted[WANTED_BYTES]);

static bool say(char wanted[WANTED_BYTES], const char *text) {
    snprintf(wanted, WANTED_BYTES, "%s", text);
    return false;
}

static bool places_fit(const Family *family, const ModelConfig *model, char *wanted) {
    int64_t experts = layers_of(model, FEED_FORWARD_MOE);
    bool dense_before = true;
    if (experts + layers_of(model, FEED_FORWARD_DENSE) < model->layers)
        return say(wanted, "dense and moe layers alone");
    for (int64_t layer = model->layers - experts; layer < model->layers; layer++)
        dense_before = dense_before && model_feed_forward(model, layer) == FEED_FORWARD_MOE;
    switch (family->places) {
    case PLACES_NONE:
        return experts == 0 || say(wanted, "dense layers alone");
    case PLACES_ALL:
        return experts == model->layers || say(wanted, "experts in every layer");
    case PLACES_LISTED:
        return experts > 0 || say(wanted, "layers with experts");
    case PLACES_AFTER_FIRST:
        return (experts > 0 && dense_before) || say(wanted, "dense layers before the others");
    }
    return true;
}

static bool always(const Family *family, const ModelConfig *model, char *wanted) {
    (void)family, (void)model, (void)wanted;
    return true;
}

static bool window_fits(const Family *family, const ModelConfig *model, char *wanted) {
    int64_t width = 0, windows = 0;
    for (int64_t layer = 0; layer < model->layers; layer++) {
        int64_t own = layer_value(&model->attention.window, layer);
        if (own == 0) continue;
        if (windows > 0 && own != width) return say(wanted, "one width for all windows");
        width = own;
        windows++;
    }
    switch (family->window) {
    case WINDOW_NONE:
        return windows == 0 || say(wanted, "no window");
    case WINDOW_SAME:
    case WINDOW_SAME_IF:
        return windows == 0 || windows == model->layers || say(wanted, "the window of every layer");
    case WINDOW_TYPES:
    case WINDOW_TYPES_IF:
        break;
    }
    return true;
}

static bool bias_fits(const Family *family, const ModelConfig *model, char *wanted) {
    const BiasRule *rule = &family->bias;
    const char *word = BIASES[model->bias].choice.word;
    if (rule->always) return strcmp(word, rule->always) == 0 || say(wanted, rule->always);
    bool fits = strcmp(word, "false") == 0 || strcmp(word, rule->with) == 0 ||
                (rule->second && strcmp(word, rule->with_both) == 0);
    if (fits) return true;
    snprintf(wanted, WANTED_BYTES, "false, %s%s%s", rule->with, rule->second ? ", " : "",
             rule->second ? rule->with_both : "");
    return false;
}

static bool router_fits(const Family *family, const ModelConfig *model, char *wanted) {
    RouterRule rule = model->moe.router;
    bool softmax = rule.kind == SOFTMAX_TOPK || rule.kind == TOPK_SOFTMAX;
    switch (family->router) {
    case ROUTER_OF_NONE:
        return true; // places say it
    case ROUTER_NORMALIZED:
        return (softmax && router_weighing(rule, 2) == WEIGH_OVER_CHOSEN) ||
               say(wanted, "softmax_topk");
    case ROUTER_SOFTMAX:
        return softmax || say(wanted, "topk_softmax");
    case ROUTER_SIGMOIDS:
        return rule.kind == SIGMOID || say(wanted, "sigmoid");
    }
    return true;
}

static bool groups_fit(const Family *family, const ModelConfig *model, char *wanted) {
    RouterRule rule = model->moe.router;
    int64_t experts = 0, top_k = 0;
    if (rule.groups == 1) return true;
    if (family->router != ROUTER_SIGMOIDS) return say(wanted, "no groups");
    if (!moe_value(model, &model->moe.experts, &experts) ||
        !moe_value(model, &model->moe.top_k, &top_k))
        return true; // said of those keys
    return router_group_choices(rule, experts / rule.groups, top_k) == 2 ||
           say(wanted, "groups judged by their 2 best: moe.top_k twice moe.top_groups");
}

static bool experts_fit(const Family *family, const ModelConfig *model, char *wanted) {
    int64_t value;
    (void)family;
    return moe_value(model, &model->moe.experts, &value) || say(wanted, "one number for all");
}
static bool top_k_fits(const Family *family, const ModelConfig *model, char *wanted) {
    int64_t value;
    (void)family;
    return moe_value(model, &model->moe.top_k, &value) || say(wanted, "one number for all");
}
static bool width_fits(const Family *family, const ModelConfig *model, char *wanted) {
    int64_t value;
    (void)family;
    return moe_value(model, &model->moe.d_ff, &value) || say(wanted, "one width for all");
}

static bool shared_width_fits(const Family *family, const ModelConfig *model, char *wanted) {
    int64_t width = 0, shared = model->moe.shared_experts;
    if (!family->widths_sum || shared == 0) return true;
    return !moe_value(model, &model->moe.d_ff, &width) ||
           shared_experts_width(&model->moe, (MoeShape){.d_ff = width}) == shared * width ||
           say(wanted, "moe.shared_experts times moe.d_ff");
}

static bool shared_fit(const Family *family, const ModelConfig *model, char *wanted) {
    int64_t shared = model->moe.shared_experts;
    if (family->widths_sum) return shared > 0 || say(wanted, "1 or more");
    return shared == 0 || say(wanted, "0");
}

static bool qk_norm_fits(const Family *family, const ModelConfig *model, char *wanted) {
    QkNormKind kind = model->attention.qk_norm;
    (void)family;
    return kind == QK_NORM_NONE || kind == QK_NORM_HEAD || say(wanted, "none, head");
}

static bool scaling_fits(const Family *family, const ModelConfig *model, char *wanted) {
    (void)family;
    return model->attention.rope.scaling != ROPE_NTK || say(wanted, "none, linear, yarn, llama3");
}

// DeepSeek's YaRN has a factor of scores (mscale_all_dim), no other family has any.
static bool scale_fits(const Family *family, const ModelConfig *model, char *wanted) {
    const AttentionConfig *attention = &model->attention;
    double usual = 1 / sqrt((double)attention->shape.d_head);
    bool yarn = family->latents && attention->rope.scaling == ROPE_YARN;
    return attention->scale == usual || (yarn && attention->scale > usual) ||
           say(wanted, "attention.d_head^-0.5");
}

static bool length_fits(const Family *family, const ModelConfig *model, char *wanted) {
    const RopeConfig *rope = &model->attention.rope;
    (void)family;
    return rope->scaling == ROPE_YARN || rope_length(rope) == 1 || say(wanted, "1 without yarn");
}

static bool d_head_fits(const Family *family, const ModelConfig *model, char *wanted) {
    AttentionShape shape = model->attention.shape;
    return !family->heads_fill || shape.d_head * shape.heads == model->d_model ||
           say(wanted, "model.d_model / attention.heads");
}

static bool d_rope_fits(const Family *family, const ModelConfig *model, char *wanted) {
    int64_t d_rope = attention_d_rope(&model->attention);
    return family->turns_part || family->latents || d_rope == model->attention.shape.d_head ||
           say(wanted, "all of attention.d_head");
}

static bool mixer_fits(const Family *family, const ModelConfig *model, char *wanted) {
    MixerKind mixer = family->latents ? MIXER_LATENT_ATTENTION : MIXER_ATTENTION;
    for (int64_t layer = 0; layer < model->layers; layer++)
        if (model_mixer(model, layer) != mixer)
            return say(wanted, family->latents ? "latent_attention" : "attention");
    return true;
}

static const struct SpecialKey {
    const char *key;
    Fits fits;
} SPECIAL_KEYS[] = {
    {"model.feed_forward", places_fit},
    {"moe.every", always}, // model.feed_forward says it
    {"moe.first", always},
    {"model.mixer", mixer_fits},
    {"model.bias", bias_fits},
    {"attention.window", window_fits},
    {"attention.d_head", d_head_fits},
    {"attention.d_rope", d_rope_fits},
    {"attention.rope_fraction", always}, // attention.d_rope says it
    {"attention.rope_theta", always},
    {"attention.rope_scaling", scaling_fits},
    {"attention.rope_factor", always},
    {"attention.rope_original_context", always},
    {"attention.rope_beta_fast", always},
    {"attention.rope_beta_slow", always},
    {"attention.rope_truncate", always},
    {"attention.rope_attention_factor", length_fits},
    {"attention.scale", scale_fits},
    {"moe.router", router_fits},
    {"moe.normalize_top_k", always}, // moe.router says it
    {"moe.groups", groups_fit},
    {"moe.top_groups", always},
    {"moe.experts", experts_fit},
    {"moe.top_k", top_k_fits},
    {"moe.d_ff", width_fits},
    {"moe.shared_experts", shared_fit},
    {"moe.shared_d_ff", shared_width_fits},
};

static Fits special_key(const Family *family, const char *key) {
    if (strcmp(key, "attention.qk_norm") == 0 && family->qk_norm_if) return qk_norm_fits;
    if (strcmp(key, "attention.kv_heads") == 0 && family->latents) return always;
    // Without one there is a bias of zeros.
    if (strcmp(key, "moe.bias_update") == 0 && family->router == ROUTER_SIGMOIDS) return always;
    for (size_t i = 0; i < sizeof SPECIAL_KEYS / sizeof *SPECIAL_KEYS; i++)
        if (strcmp(SPECIAL_KEYS[i].key, key) == 0) return SPECIAL_KEYS[i].fits;
    return NULL;
}

// ---- all keys -----------------------------------------------------------------------------------

static const char *fact_of(const Family *family, const char *key) {
    for (const FactRule *fact = family->facts; fact && fact->ours; fact++)
        if (strcmp(fact->ours, key) == 0) return fact->value;
    return NULL;
}

// Keys whose values decide what weights compute.
static bool is_of_function(const Option *key) {
    static const char *const sections[] = {"model.", "attention.", "moe."};
    if (strcmp(key->name, "moe.renormalize_after_drop") == 0) return true;
    if (key->kind != KIND_FUNCTION) return false;
    for (size_t i = 0; i < sizeof sections / sizeof *sections; i++)
        if (strncmp(key->name, sections[i], strlen(sections[i])) == 0) return true;
    return false;
}

// Keys that no layer of the model asks for.
static bool is_idle(const ModelConfig *model, const char *key) {
    if (strcmp(key, "model.d_ff") == 0) return layers_of(model, FEED_FORWARD_DENSE) == 0;
    return strncmp(key, "moe.", 4) == 0 && layers_of(model, FEED_FORWARD_MOE) == 0;
}

static bool key_fits(const Family *family, const Config *config, int row,
                     char wanted[WANTED_BYTES]) {
    const char *key = config_key(row)->name;
    const ModelConfig *model = &config->train.model;
    const char *fact = fact_of(family, key);
    if (family->shared_of_zeros && model->moe.shared_experts == 0 &&
        strncmp(key, "moe.shared_", strlen("moe.shared_")) == 0)
        return true;
    Fits special = special_key(family, key);
    if (special && strcmp(key, "model.mixer") == 0) return special(family, model, wanted);
    if (!fact && special) return special(family, model, wanted);
    if (!fact && family_has_field(family, key)) return true;
    char *text = config_key_text(config, row), *other = fact ? NULL : default_text(config, row);
    bool fits = strcmp(text, fact ? fact : other) == 0 || say(wanted, fact ? fact : other);
    free(text);
    free(other);
    return fits;
}

// How many keys do not fit; "attention.gate is head (mixtral has none)" and so on for the first of
// them.
static int misfits(const Family *family, const Config *config, char text[MISFITS_BYTES]) {
    int count = 0;
    size_t used = 0;
    text[0] = '\0';
    for (int row = 0; row < config_key_count(); row++) {
        const Option *key = config_key(row);
        char wanted[WANTED_BYTES];
        if (!is_of_function(key) || is_idle(&config->train.model, key->name) ||
            key_fits(family, config, row, wanted))
            continue;
        if (++count > 4) continue;
        char *value = config_key_text(config, row);
        if (used < MISFITS_BYTES)
            used += (size_t)snprintf(text + used, MISFITS_BYTES - used, "%s%s is %.60s (%s: %s)",
                                     count > 1 ? ", " : "", key->name, value, family->model_type,
                                     wanted);
        free(value);
    }
    return count;
}

bool family_holds(const Family *family, const Config *config, Error *err) {
    char text[MISFITS_BYTES];
    return misfits(family, config, text) == 0 ||
           error_set(err, EXIT_CONFIG, "%s cannot hold this model: %s", family->model_type, text);
}

bool family_choose(const Config *config, const Family **family, Error *err) {
    int least = 1 << 30;
    char text[MISFITS_BYTES], nearest[MISFITS_BYTES] = "";
    *family = NULL;
    bool experts = layers_of(&config->train.model, FEED_FORWARD_MOE) > 0;
    for (int i = 0; FAMILIES[i]; i++) {
        if (experts == (FAMILIES[i]->places == PLACES_NONE)) continue; // never near
        int count = misfits(FAMILIES[i], config, text);
        if (count >= least) continue;
        least = count;
        *family = FAMILIES[i];
        snprintf(nearest, sizeof nearest, "%s", text);
        if (count == 0) return true;
    }
    return error_set(err, EXIT_CONFIG,
                     "no family of models that Hugging Face has computes what this one does; the "
                     "nearest is %s, but %s%s",
                     (*family)->model_type, nearest, least > 4 ? " and more" : "");
}
