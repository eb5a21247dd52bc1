#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/integers.h"
#include "launcher/huggingface/config_json.h"
#include "launcher/huggingface/quantization_config.h"
#include "launcher/value_text.h"
#include "worker/run/json_file.h"

enum { MOST_BYTES = 1 << 24, LONGEST_CONTEXT = 2048 };

typedef struct Reader {
    json_t *root, *rope;
    json_t *read; // names of the keys that were looked at
    const Family *family;
    FILE *out; // YAML
    int64_t layers;
    Error *err;
} Reader;

// ---- values -------------------------------------------------------------------------------------

// The key's value; NULL where it is absent or null.
static const json_t *look(Reader *reader, const char *key) {
    json_object_set_new(reader->read, key, json_true());
    const json_t *value = json_object_get(reader->root, key);
    return json_is_null(value) ? NULL : value;
}

// A value that a message can show.
static void show(const json_t *value, char text[96]) {
    char *whole = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
    snprintf(text, 96, "%.80s", whole ? whole : "no JSON");
    free(whole);
}

static bool refuse(Reader *reader, const char *key, const json_t *value, const char *wanted) {
    char text[96];
    show(value, text);
    return error_set(reader->err, EXIT_CONFIG,
                     "config.json: %s is %s, but a %s model can be imported only with %s", key,
                     text, reader->family->model_type, wanted);
}

static bool missing(Reader *reader, const char *key) {
    return error_set(reader->err, EXIT_CONFIG, "config.json: %s is missing", key);
}

static bool take_integer(Reader *reader, const char *key, int64_t least, int64_t absent,
                         int64_t *number) {
    const json_t *value = look(reader, key);
    char wanted[64];
    *number = value ? (int64_t)json_integer_value(value) : absent;
    if (!value) return absent >= least || missing(reader, key);
    snprintf(wanted, sizeof wanted, "a whole number from %lld", (long long)least);
    return (json_is_integer(value) && *number >= least && *number < (int64_t)1 << 40) ||
           refuse(reader, key, value, wanted);
}

static bool take_flag(Reader *reader, const char *key, bool absent, bool *flag) {
    const json_t *value = look(reader, key);
    *flag = value ? json_is_true(value) : absent;
    return !value || json_is_boolean(value) || refuse(reader, key, value, "true or false");
}

// A number of the dictionary of RoPE.
static bool rope_number(Reader *reader, const char *key, double absent, double *number) {
    const json_t *value = reader->rope ? json_object_get(reader->rope, key) : NULL;
    bool there = value && !json_is_null(value);
    *number = there ? json_number_value(value) : absent;
    return !there || json_is_number(value) || refuse(reader, key, value, "a number");
}

static void put_number(Reader *reader, const char *key, double number) {
    char text[NUMBER_TEXT_BYTES];
    number_text(number, text);
    fprintf(reader->out, "%s: %s\n", key, text);
}

// ---- keys that mean the same --------------------------------------------------------------------

static bool take_field(Reader *reader, const FieldRule *field) {
    const json_t *value = look(reader, field->theirs);
    if (!value && field->also) value = look(reader, field->also);
    if (!value) {
        if (!field->absent) return missing(reader, field->theirs);
        if (field->absent[0]) fprintf(reader->out, "%s: %s\n", field->ours, field->absent);
        return true;
    }
    if (json_is_integer(value))
        fprintf(reader->out, "%s: %lld\n", field->ours, (long long)json_integer_value(value));
    else if (json_is_real(value))
        put_number(reader, field->ours, json_real_value(value));
    else if (json_is_boolean(value))
        fprintf(reader->out, "%s: %s\n", field->ours, json_is_true(value) ? "true" : "false");
    else
        return refuse(reader, field->theirs, value, "a number or true or false");
    return true;
}

// What is true of the whole family, where no field says it again.
static void put_facts(Reader *reader) {
    const Family *family = reader->family;
    for (const FactRule *fact = family->facts; fact && fact->ours; fact++)
        if (!family_has_field(family, fact->ours))
            fprintf(reader->out, "%s: %s\n", fact->ours, fact->value);
    if (family->compat) fprintf(reader->out, "compat: %s\n", family->compat);
}

static bool check_demands(Reader *reader) {
    for (const DemandRule *demand = reader->family->demands; demand && demand->theirs; demand++) {
        const json_t *value = look(reader, demand->theirs);
        json_t *wanted = json_loads(demand->value, JSON_DECODE_ANY, NULL);
        bool same = !value || json_equal(value, wanted) ||
                    (json_is_number(value) && json_is_number(wanted) &&
                     json_number_value(value) == json_number_value(wanted));
        json_decref(wanted);
        if (!same) return refuse(reader, demand->theirs, value, demand->value);
    }
    return true;
}

// ---- the rest -----------------------------------------------------------------------------------

// YaRN's factor of cosines and sines, and that of scores: DeepSeek's mscale.
static bool take_yarn_lengths(Reader *reader, double factor, int64_t d_head) {
    double given, mscale, all, length;
    if (!rope_number(reader, "attention_factor", 0, &given) ||
        !rope_number(reader, "mscale", 0, &mscale) ||
        !rope_number(reader, "mscale_all_dim", 0, &all))
        return false;
    length = 0.1 * log(factor) + 1;
    if (mscale != 0 && all != 0)
        length = (0.1 * mscale * log(factor) + 1) / (0.1 * all * log(factor) + 1);
    put_number(reader, "attention.rope_attention_factor", given > 0 ? given : length);
    if (all == 0 || !reader->family->latents) return true;
    double scale = 0.1 * all * log(factor) + 1;
    put_number(reader, "attention.scale", scale * scale / sqrt((double)d_head));
    return true;
}

static bool take_yarn(Reader *reader, int64_t d_head) {
    double factor, context, fast, slow, most;
    const json_t *truncate = json_object_get(reader->rope, "truncate");
    const json_t *positions = look(reader, "max_position_embeddings");
    most = positions ? json_number_value(positions) : 0;
    if (!rope_number(reader, "factor", 0, &factor) ||
        !rope_number(reader, "original_max_position_embeddings", most, &context) ||
        !rope_number(reader, "beta_fast", 32, &fast) || !rope_number(reader, "beta_slow", 1, &slow))
        return false;
    if (factor <= 1) return missing(reader, "factor of YaRN");
    fprintf(reader->out, "attention.rope_scaling: yarn\nattention.rope_original_context: %.0f\n",
            context);
    put_number(reader, "attention.rope_factor", factor);
    put_number(reader, "attention.rope_beta_fast", fast);
    put_number(reader, "attention.rope_beta_slow", slow);
    if (json_is_false(truncate)) fputs("attention.rope_truncate: false\n", reader->out);
    return take_yarn_lengths(reader, factor, d_head);
}

static bool take_llama3(Reader *reader) {
    double factor, context, fast, slow;
    if (!rope_number(reader, "factor", 0, &factor) ||
        !rope_number(reader, "original_max_position_embeddings", 0, &context) ||
        !rope_number(reader, "high_freq_factor", 0, &fast) ||
        !rope_number(reader, "low_freq_factor", 0, &slow))
        return false;
    const char *lacks = factor <= 1    ? "factor of llama3, above 1,"
                        : context <= 0 ? "original_max_position_embeddings of llama3"
                        : fast <= 0    ? "high_freq_factor of llama3"
                        : slow <= 0    ? "low_freq_factor of llama3"
                                       : NULL;
    if (lacks) return missing(reader, lacks);
    fprintf(reader->out, "attention.rope_scaling: llama3\nattention.rope_original_context: %.0f\n",
            context);
    put_number(reader, "attention.rope_factor", factor);
    put_number(reader, "attention.rope_beta_fast", fast);
    put_number(reader, "attention.rope_beta_slow", slow);
    return true;
}

static bool take_fraction(Reader *reader) {
    const json_t *own = look(reader, "partial_rotary_factor");
    const json_t *value = reader->rope ? json_object_get(reader->rope, "partial_rotary_factor") : 0;
    if (!value) value = own;
    if (value && !json_is_number(value))
        return refuse(reader, "partial_rotary_factor", value, "a number");
    double part = value ? json_number_value(value) : reader->family->turns_part ? 0.5 : 1;
    if (!reader->family->turns_part)
        return part == 1 || refuse(reader, "partial_rotary_factor", value, "1");
    put_number(reader, "attention.rope_fraction", part);
    return true;
}

// rope_parameters of now, or rope_theta and rope_scaling of before.
static bool take_rope(Reader *reader, int64_t d_head) {
    const json_t *theta = look(reader, "rope_theta");
    const json_t *now = look(reader, "rope_parameters"), *before = look(reader, "rope_scaling");
    reader->rope = (json_t *)(now ? now : before);
    if (reader->rope && !json_is_object(reader->rope))
        return refuse(reader, "rope_parameters", reader->rope, "a dictionary");
    const json_t *inner = reader->rope ? json_object_get(reader->rope, "rope_theta") : NULL;
    if (json_is_number(inner)) theta = inner;
    if (!json_is_number(theta)) return missing(reader, "rope_theta");
    put_number(reader, "attention.rope_theta", json_number_value(theta));
    const json_t *type = reader->rope ? json_object_get(reader->rope, "rope_type") : NULL;
    if (!type && reader->rope) type = json_object_get(reader->rope, "type");
    const char *word = type ? json_string_value(type) : "default";
    if (!take_fraction(reader)) return false;
    if (word && strcmp(word, "default") == 0) return true;
    if (word && strcmp(word, "yarn") == 0) return take_yarn(reader, d_head);
    if (word && strcmp(word, "llama3") == 0) return take_llama3(reader);
    if (word && strcmp(word, "dynamic") == 0)
        return refuse(reader, "rope_type", type,
                      "angles that do not change while a text grows, as dynamic ones do (keys "
                      "that are kept would be wrong): default for texts of its context, linear, "
                      "yarn or llama3");
    if (!word || strcmp(word, "linear") != 0)
        return refuse(reader, "rope_type", type, "default, linear, yarn or llama3");
    double factor;
    if (!rope_number(reader, "factor", 1, &factor)) return false;
    if (factor > 1) fputs("attention.rope_scaling: linear\n", reader->out);
    put_number(reader, "attention.rope_factor", factor);
    return true;
}

static void put_list(Reader *reader, const char *key, const char *const *words, int64_t count) {
    fprintf(reader->out, "%s: [", key);
    for (int64_t i = 0; i < count; i++) fprintf(reader->out, "%s%s", i ? ", " : "", words[i]);
    fputs("]\n", reader->out);
}

static bool take_places(Reader *reader) {
    static const char *const kinds[] = {"dense", "moe"};
    const char *words[1024];
    int64_t every = 1, first = 0;
    const Family *family = reader->family;
    if (family->places == PLACES_NONE) fputs("moe.experts: 0\n", reader->out);
    if (family->places == PLACES_ALL || family->places == PLACES_NONE) return true;
    const json_t *listed = NULL, *entry;
    size_t i;
    if (family->places == PLACES_AFTER_FIRST) {
        if (!take_integer(reader, "first_k_dense_replace", 0, 0, &first)) return false;
    } else {
        if (!take_integer(reader, "decoder_sparse_step", 1, 1, &every)) return false;
        listed = look(reader, "mlp_only_layers");
    }
    for (int64_t layer = 0; layer < reader->layers; layer++)
        words[layer] = kinds[layer >= first && (layer + 1) % every == 0];
    if (listed && !json_is_array(listed))
        return refuse(reader, "mlp_only_layers", listed, "a list of layers");
    json_array_foreach(listed, i, entry) {
        int64_t layer = (int64_t)json_integer_value(entry);
        if (!json_is_integer(entry) || layer < 0 || layer >= reader->layers)
            return refuse(reader, "mlp_only_layers", entry, "numbers of layers");
        words[layer] = kinds[0];
    }
    put_list(reader, "model.feed_forward", words, reader->layers);
    return true;
}

// Layers before max_window_layers see everything (Qwen), unless layer_types names each.
static bool take_window(Reader *reader) {
    WindowFamily kind = reader->family->window;
    bool used = true;
    int64_t width = 0, from = 0;
    char text[24];
    const char *words[1024];
    if (kind == WINDOW_NONE) return true;
    bool asks = kind == WINDOW_SAME_IF || kind == WINDOW_TYPES_IF;
    if (asks && !take_flag(reader, "use_sliding_window", false, &used)) return false;
    if (!take_integer(reader, "sliding_window", 0, 0, &width) ||
        !take_integer(reader, "max_window_layers", 0, 0, &from))
        return false;
    const json_t *types = look(reader, "layer_types");
    if (!used || width == 0) return true;
    snprintf(text, sizeof text, "%lld", (long long)width);
    bool by_type = kind == WINDOW_TYPES || kind == WINDOW_TYPES_IF;
    if (by_type && (!json_is_array(types) || (int64_t)json_array_size(types) != reader->layers))
        return refuse(reader, "layer_types", types, "a type for each layer");
    for (int64_t layer = 0; layer < reader->layers; layer++) {
        const json_t *entry = by_type ? json_array_get(types, (size_t)layer) : NULL;
        const char *type = by_type ? json_string_value(entry) : "sliding_attention";
        bool sliding = type && strcmp(type, "sliding_attention") == 0;
        if (!sliding && (!type || strcmp(type, "full_attention") != 0))
            return refuse(reader, "layer_types", entry, "sliding_attention and full_attention");
        words[layer] = sliding ? text : "0";
    }
    put_list(reader, "attention.window", words, reader->layers);
    return true;
}

static bool take_bias(Reader *reader) {
    const BiasRule *rule = &reader->family->bias;
    // Models from before the key had biases (Qwen1.5-MoE).
    bool first = false, second = false,
         absent = strcmp(rule->theirs ? rule->theirs : "", "qkv_bias") == 0;
    if (rule->always) {
        fprintf(reader->out, "model.bias: \"%s\"\n", rule->always);
        return true;
    }
    if (!take_flag(reader, rule->theirs, absent, &first)) return false;
    if (rule->second && !take_flag(reader, rule->second, false, &second)) return false;
    if (second && !first) return refuse(reader, rule->second, json_true(), "false, or with both");
    fprintf(reader->out, "model.bias: \"%s\"\n",
            second  ? rule->with_both
            : first ? rule->with
                    : "false");
    return true;
}

static bool take_router(Reader *reader) {
    bool normalized = true;
    int64_t top_k;
    switch (reader->family->router) {
    case ROUTER_OF_NONE:
        return true;
    case ROUTER_NORMALIZED:
        fputs("moe.router: softmax_topk\n", reader->out);
        return true;
    case ROUTER_SOFTMAX:
        if (!take_flag(reader, "norm_topk_prob", false, &normalized)) return false;
        fprintf(reader->out, "moe.router: topk_softmax\nmoe.normalize_top_k: %s\n",
                normalized ? "true" : "false");
        return true;
    case ROUTER_SIGMOIDS:
        fputs("moe.router: sigmoid\nmoe.bias_update: sign\n", reader->out);
        if (!take_flag(reader, "norm_topk_prob", true, &normalized) ||
            !take_integer(reader, "num_experts_per_tok", 1, 0, &top_k))
            return false;
        return normalized == (top_k > 1) ||
               refuse(reader, "norm_topk_prob", normalized ? json_true() : json_false(),
                      "true, and false where num_experts_per_tok is 1");
    }
    return true;
}

// d_head is the sum of both parts of a head.
static bool take_latents(Reader *reader, bool *alternate, int64_t *d_head) {
    int64_t heads, keys, rope, nope;
    if (!take_integer(reader, "num_attention_heads", 1, 0, &heads) ||
        !take_integer(reader, "num_key_value_heads", 1, heads, &keys) ||
        !take_integer(reader, "qk_rope_head_dim", 1, 0, &rope) ||
        !take_integer(reader, "qk_nope_head_dim", 1, 0, &nope) ||
        !take_flag(reader, "rope_interleave", true, alternate))
        return false;
    if (keys != heads)
        return refuse(reader, "num_key_value_heads",
                      json_object_get(reader->root, "num_key_value_heads"),
                      "as many as num_attention_heads");
    *d_head = rope + nope;
    fprintf(reader->out, "attention.d_head: %lld\n", (long long)*d_head);
    return true;
}

static bool take_qk_norm(Reader *reader) {
    bool normed;
    if (!reader->family->qk_norm_if) return true;
    if (!take_flag(reader, reader->family->qk_norm_if, false, &normed)) return false;
    fprintf(reader->out, "attention.qk_norm: %s\n", normed ? "head" : "none");
    return true;
}

// What training and generation begin with; none of it is part of what the weights compute.
static bool take_beginnings(Reader *reader) {
    int64_t positions;
    const json_t *std = look(reader, "initializer_range");
    if (!take_integer(reader, "max_position_embeddings", 1, LONGEST_CONTEXT, &positions))
        return false;
    fprintf(reader->out, "train.context: %lld\n", (long long)smaller(positions, LONGEST_CONTEXT));
    if (json_is_number(std) && json_number_value(std) > 0)
        put_number(reader, "model.init_std", json_number_value(std));
    return true;
}

// ---- the whole ----------------------------------------------------------------------------------

// Keys that change nothing of what the weights compute.
static const char *const SAY_NOTHING[] = {"architectures",
                                          "transformers_version",
                                          "torch_dtype",
                                          "dtype",
                                          "use_cache",
                                          "bos_token_id",
                                          "eos_token_id",
                                          "pad_token_id",
                                          "attention_dropout",
                                          "output_router_logits",
                                          "router_aux_loss_coef",
                                          "router_jitter_noise",
                                          "pretraining_tp",
                                          "aux_loss_alpha",
                                          "seq_aux",
                                          "ep_size",
                                          "num_nextn_predict_layers",
                                          "num_mtp_layers",
                                          "attn_implementation",
                                          "_name_or_path",
                                          "auto_map",
                                          "max_window_layers",
                                          "sliding_window",
                                          "use_sliding_window",
                                          "layer_types",
                                          "head_dim",
                                          "qk_head_dim",
                                          "intermediate_size",
                                          "experts_per_token",
                                          "initial_context_length",
                                          "return_dict",
                                          "output_hidden_states",
                                          "output_attentions",
                                          "id2label",
                                          "label2id",
                                          "problem_type",
                                          "chunk_size_feed_forward",
                                          "is_encoder_decoder",
                                          "tokenizer_class",
                                          NULL};

static char *list_unread(const Reader *reader) {
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    CHECK_MEMORY(out, "out of memory");
    const char *key;
    json_t *value;
    int count = 0;
    json_object_foreach(reader->root, key, value) {
        bool known = json_object_get(reader->read, key) != NULL;
        for (int i = 0; !known && SAY_NOTHING[i]; i++) known = strcmp(SAY_NOTHING[i], key) == 0;
        if (!known) fprintf(out, "%s%.60s", count++ ? ", " : "", key);
    }
    fclose(out);
    CHECK_MEMORY(text, "out of memory");
    return text;
}

static bool find_family(Reader *reader) {
    const json_t *type = look(reader, "model_type");
    const char *word = json_string_value(type);
    reader->family = word ? family_find(word) : NULL;
    if (reader->family) return true;
    char text[96], names[160] = "";
    if (type) show(type, text);
    for (int i = 0; FAMILIES[i]; i++)
        snprintf(names + strlen(names), sizeof names - strlen(names), "%s%s", i ? ", " : "",
                 FAMILIES[i]->model_type);
    return error_set(reader->err, EXIT_CONFIG,
                     "config.json: model_type is %s, which is not known; it can be one of %s",
                     type ? text : "missing", names);
}

static bool take_all(Reader *reader, ConfigJson *json) {
    int64_t d_head = 0, layers;
    if (!find_family(reader) || !check_demands(reader) ||
        !quantization_config_read(look(reader, "quantization_config"), reader->family,
                                  &json->quantization, reader->err) ||
        !take_integer(reader, "vocab_size", 1, 0, &json->vocab_size) ||
        !take_integer(reader, "num_hidden_layers", 1, 0, &layers))
        return false;
    if (layers > 1024)
        return refuse(reader, "num_hidden_layers",
                      json_object_get(reader->root, "num_hidden_layers"), "at most 1024");
    reader->layers = layers;
    json->family = reader->family;
    put_facts(reader);
    for (int list = 0; list < FAMILY_RULES_MOST && reader->family->fields[list]; list++)
        for (const FieldRule *field = reader->family->fields[list]; field->theirs; field++)
            if (!take_field(reader, field)) return false;
    if (reader->family->latents && !take_latents(reader, &json->alternate, &d_head)) return false;
    return take_rope(reader, d_head) && take_places(reader) && take_window(reader) &&
           take_bias(reader) && take_router(reader) && take_qk_norm(reader) &&
           take_beginnings(reader);
}

static json_t *load(const char *folder, Error *err) {
    char path[CONFIG_PATH_BYTES + 16];
    if (snprintf(path, sizeof path, "%s/config.json", folder) >= (int)sizeof path) {
        error_set(err, EXIT_IO, "path too long: %.60s...", folder);
        return NULL;
    }
    if (access(path, F_OK) != 0) {
        error_set(err, EXIT_IO,
                  "%s: there is none; name a folder as transformers' save_pretrained leaves it",
                  path);
        return NULL;
    }
    json_t *root = json_file_load(path, MOST_BYTES, EXIT_CONFIG, err);
    if (!root && err->exit_code != EXIT_IO) error_prefix(err, "%s", path);
    return root;
}

bool config_json_read(ConfigJson *json, const char *folder, Error *err) {
    *json = (ConfigJson){0};
    Reader reader = {.root = load(folder, err), .err = err};
    if (!reader.root) return false;
    size_t bytes = 0;
    reader.read = json_object();
    reader.out = open_memstream(&json->yaml, &bytes);
    CHECK_MEMORY(reader.out && reader.read, "out of memory");
    bool ok = take_all(&reader, json);
    fclose(reader.out);
    CHECK_MEMORY(json->yaml, "out of memory");
    json->unread = list_unread(&reader);
    json_decref(reader.root);
    json_decref(reader.read);
    if (ok) return true;
    free(json->yaml);
    free(json->unread);
    *json = (ConfigJson){0};
    return error_prefix(err, "%.400s", folder);
}
