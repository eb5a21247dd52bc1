#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launcher/huggingface/config_json.h"
#include "launcher/huggingface/family_fit.h"
#include "launcher/value_text.h"
#include "model/rope.h"
#include "model/shared_experts.h"

typedef struct Writer {
    FILE *out;
    const Config *config;
    const ModelConfig *model;
    const Family *family;
} Writer;

// A key and its value, as JSON.
static void put(const Writer *writer, const char *key, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void put(const Writer *writer, const char *key, const char *format, ...) {
    va_list args;
    fprintf(writer->out, ",\n  \"%s\": ", key);
    va_start(args, format);
    vfprintf(writer->out, format, args);
    va_end(args);
}

static void put_flag(const Writer *writer, const char *key, bool value) {
    put(writer, key, "%s", value ? "true" : "false");
}

static void put_integer(const Writer *writer, const char *key, int64_t value) {
    put(writer, key, "%lld", (long long)value);
}

// As one that is no integer.
static void print_number(double number, char text[NUMBER_TEXT_BYTES + 4]) {
    number_text(number, text);
    if (!strpbrk(text, ".e")) snprintf(text + strlen(text), 4, ".0");
}

static void put_number(const Writer *writer, const char *key, double number) {
    char text[NUMBER_TEXT_BYTES + 4];
    print_number(number, text);
    put(writer, key, "%s", text);
}

// ---- keys that mean the same --------------------------------------------------------------------

// The value that layers with experts have, where a key is a list for each layer.
static bool list_value(const Writer *writer, const char *key, int64_t *value) {
    const MoeConfig *moe = &writer->model->moe;
    const PerLayer *list = strcmp(key, "moe.experts") == 0 ? &moe->experts
                           : strcmp(key, "moe.top_k") == 0 ? &moe->top_k
                           : strcmp(key, "moe.d_ff") == 0  ? &moe->d_ff
                                                           : NULL;
    return list && moe_value(writer->model, list, value);
}

static void put_field(const Writer *writer, const FieldRule *field) {
    const ModelConfig *model = writer->model;
    int row = config_key_find(field->ours);
    const void *value = config_key_value(&writer->config->train, row);
    int64_t number = 0, width = 0;
    if (list_value(writer, field->ours, &number)) {
        put_integer(writer, field->theirs, number);
    } else if (strcmp(field->ours, "moe.shared_d_ff") == 0) {
        if (moe_value(model, &model->moe.d_ff, &width)) {
            int64_t shared = shared_experts_width(&model->moe, (MoeShape){.d_ff = width});
            put_integer(writer, field->theirs, shared > 0 ? shared : WIDTH_OF_ZEROS);
        }
    } else if (strcmp(field->ours, "attention.q_rank") == 0 && model->attention.q_rank == 0) {
        put(writer, field->theirs, "null");
    } else if (config_key(row)->type == OPTION_NUMBER) {
        put_number(writer, field->theirs, *(const double *)value);
    } else {
        char *text = key_text(writer->config, field->ours);
        put(writer, field->theirs, "%s", text);
        free(text);
    }
}

// ---- the rest -----------------------------------------------------------------------------------

static void put_rope(const Writer *writer) {
    const AttentionConfig *attention = &writer->model->attention;
    const RopeConfig *rope = &attention->rope;
    enum { ROOM = NUMBER_TEXT_BYTES + 4 };
    char theta[ROOM], factor[ROOM], fast[ROOM], slow[ROOM], length[ROOM], part[ROOM], all[ROOM];
    char *text = NULL;
    size_t bytes = 0;
    print_number(attention->rope_theta, theta);
    print_number(rope->factor, factor);
    print_number(rope->beta_fast, fast);
    print_number(rope->beta_slow, slow);
    print_number(rope_length(rope), length);
    print_number((double)attention_d_rope(attention) / (double)attention->shape.d_head, part);
    // Scores are multiplied by the square of 0.1 mscale_all_dim ln factor + 1.
    double scale = attention->scale * sqrt((double)attention->shape.d_head);
    print_number(rope->factor > 1 ? (sqrt(scale) - 1) / (0.1 * log(rope->factor)) : 0, all);
    FILE *out = open_memstream(&text, &bytes);
    CHECK_MEMORY(out, "out of memory");
    bool yarn = rope->scaling == ROPE_YARN, scaled = rope->scaling != ROPE_AS_TRAINED;
    const char *word = choice_row(ROPE_SCALING_CHOICES, (int)rope->scaling)->word;
    fprintf(out, "{\"rope_type\": \"%s\", \"rope_theta\": %s", scaled ? word : "default", theta);
    if (rope->scaling != ROPE_AS_TRAINED) fprintf(out, ", \"factor\": %s", factor);
    if (yarn)
        fprintf(out,
                ", \"original_max_position_embeddings\": %lld, \"beta_fast\": %s, \"beta_slow\": "
                "%s, \"attention_factor\": %s, \"truncate\": %s",
                (long long)rope->original_context, fast, slow, length,
                rope->truncate ? "true" : "false");
    if (rope->scaling == ROPE_LLAMA3)
        fprintf(out,
                ", \"original_max_position_embeddings\": %lld, \"high_freq_factor\": %s, "
                "\"low_freq_factor\": %s",
                (long long)rope->original_context, fast, slow);
    if (yarn && writer->family->latents) fprintf(out, ", \"mscale_all_dim\": %s", all);
    if (writer->family->turns_part) fprintf(out, ", \"partial_rotary_factor\": %s", part);
    fputc('}', out);
    fclose(out);
    CHECK_MEMORY(text, "out of memory");
    // Programs of before 2026 read rope_theta and rope_scaling, those of after rope_parameters.
    put(writer, "rope_theta", "%s", theta);
    put(writer, "rope_parameters", "%s", text);
    if (rope->scaling != ROPE_AS_TRAINED) put(writer, "rope_scaling", "%s", text);
    if (writer->family->turns_part) put(writer, "partial_rotary_factor", "%s", part);
    free(text);
}

static void put_places(const Writer *writer) {
    const ModelConfig *model = writer->model;
    int64_t dense = 0;
    for (int64_t layer = 0; layer < model->layers; layer++)
        dense += model_feed_forward(model, layer) == FEED_FORWARD_DENSE;
    if (writer->family->places == PLACES_AFTER_FIRST)
        put_integer(writer, "first_k_dense_replace", dense);
    if (writer->family->places != PLACES_LISTED) return;
    put_integer(writer, "decoder_sparse_step", 1);
    put(writer, "mlp_only_layers", "[");
    for (int64_t layer = 0, listed = 0; layer < model->layers; layer++)
        if (model_feed_forward(model, layer) == FEED_FORWARD_DENSE)
            fprintf(writer->out, "%s%lld", listed++ ? ", " : "", (long long)layer);
    fputc(']', writer->out);
}

static void put_window(const Writer *writer) {
    const ModelConfig *model = writer->model;
    WindowFamily kind = writer->family->window;
    int64_t width = 0;
    for (int64_t layer = 0; layer < model->layers; layer++)
        if (layer_value(&model->attention.window, layer) > 0)
            width = layer_value(&model->attention.window, layer);
    if (kind == WINDOW_NONE) return;
    if (kind == WINDOW_SAME_IF || kind == WINDOW_TYPES_IF)
        put_flag(writer, "use_sliding_window", width > 0);
    if (width > 0)
        put_integer(writer, "sliding_window", width);
    else
        put(writer, "sliding_window", "null");
    if (kind != WINDOW_TYPES && kind != WINDOW_TYPES_IF) return;
    put(writer, "layer_types", "[");
    for (int64_t layer = 0; layer < model->layers; layer++)
        fprintf(writer->out, "%s\"%s_attention\"", layer ? ", " : "",
                layer_value(&model->attention.window, layer) > 0 ? "sliding" : "full");
    fputc(']', writer->out);
}

static void put_bias(const Writer *writer) {
    const BiasRule *rule = &writer->family->bias;
    const char *word = BIASES[writer->model->bias].choice.word;
    if (rule->always) return;
    put_flag(writer, rule->theirs, strcmp(word, "false") != 0);
    if (rule->second) put_flag(writer, rule->second, strcmp(word, rule->with_both) == 0);
}

static void put_router(const Writer *writer) {
    const ModelConfig *model = writer->model;
    RouterFamily kind = writer->family->router;
    int64_t top_k = 0;
    if (kind != ROUTER_SOFTMAX && kind != ROUTER_SIGMOIDS) return;
    if (!moe_value(model, &model->moe.top_k, &top_k)) return;
    put_flag(writer, "norm_topk_prob",
             router_weighing(model->moe.router, top_k) == WEIGH_OVER_CHOSEN);
}

static void put_latents(const Writer *writer) {
    const AttentionConfig *attention = &writer->model->attention;
    if (!writer->family->latents) return;
    put_integer(writer, "num_key_value_heads", attention->shape.heads);
    put_integer(writer, "qk_nope_head_dim", attention->shape.d_head - attention_d_rope(attention));
    put_flag(writer, "rope_interleave", true);
}

static void put_demands(const Writer *writer) {
    for (const DemandRule *demand = writer->family->demands; demand && demand->theirs; demand++)
        if (strcmp(demand->value, "null") != 0) put(writer, demand->theirs, "%s", demand->value);
}

char *config_json_write(const Config *config, const Family *family, int64_t vocab_size,
                        StoredType type) {
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    CHECK_MEMORY(out, "out of memory");
    const Writer writer = {out, config, &config->train.model, family};
    fprintf(out, "{\n  \"architectures\": [\"%s\"]", family->architecture);
    put(&writer, "model_type", "\"%s\"", family->model_type);
    put_integer(&writer, "vocab_size", vocab_size);
    put_integer(&writer, "max_position_embeddings", config->train.context);
    for (int list = 0; list < FAMILY_RULES_MOST && family->fields[list]; list++)
        for (const FieldRule *field = family->fields[list]; field->theirs; field++)
            put_field(&writer, field);
    put_rope(&writer);
    put_latents(&writer);
    put_places(&writer);
    put_window(&writer);
    put_bias(&writer);
    put_router(&writer);
    put_demands(&writer);
    if (family->qk_norm_if)
        put_flag(&writer, family->qk_norm_if, writer.model->attention.qk_norm != QK_NORM_NONE);
    if (family->widths_sum) put_integer(&writer, "num_nextn_predict_layers", 0);
    put_number(&writer, "initializer_range", writer.model->init_std);
    const char *dtype = type == STORED_BF16 ? "bfloat16" : "float32";
    put(&writer, "torch_dtype", "\"%s\"", dtype);
    put(&writer, "dtype", "\"%s\"", dtype);
    fputs(",\n  \"bos_token_id\": null,\n  \"eos_token_id\": null,\n  \"pad_token_id\": null\n}\n",
          out);
    fclose(out);
    CHECK_MEMORY(text, "out of memory");
    return text;
}
