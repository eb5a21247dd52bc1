#include "worker/tokenizer/tokenizer_write.h"

#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "kernels/check.h"
#include "kernels/utf8.h"

void tokenizer_spec_free(TokenizerSpec *spec) {
    byte_strings_free(&spec->tokens);
    free(spec->merges);
    *spec = (TokenizerSpec){0};
}

bool tokenizer_spec_add_special(TokenizerSpec *spec, const char *list, Error *err) {
    spec->special_first = spec->tokens.count;
    for (const char *at = list; *list != '\0';) {
        size_t length = strcspn(at, ",");
        bool is_new = false;
        if (length > 0 && utf8_valid_bytes((const uint8_t *)at, length) == length)
            byte_strings_add(&spec->tokens, at, length, &is_new);
        if (!is_new)
            return error_set(err, EXIT_CONFIG,
                             "special token '%.*s' of '%.60s' is empty, no UTF-8 or comes twice; "
                             "write different tokens with commas between them",
                             (int)(length < 60 ? length : 60), at, list);
        spec->special_count++;
        at += length;
        if (*at++ == '\0') break;
    }
    return true;
}

static json_t *token_text(const TokenizerSpec *spec, int32_t id) {
    size_t bytes;
    const uint8_t *text = byte_strings_get(&spec->tokens, id, &bytes);
    return json_stringn_nocheck((const char *)text, bytes);
}

static json_t *added_tokens(const TokenizerSpec *spec) {
    json_t *rows = json_array();
    for (int32_t i = 0; i < spec->special_count; i++) {
        int32_t id = spec->special_first + i;
        json_array_append_new(rows,
                              json_pack("{s:i, s:o, s:b, s:b, s:b, s:b, s:b}", "id", (int)id,
                                        "content", token_text(spec, id), "single_word", 0, "lstrip",
                                        0, "rstrip", 0, "normalized", 0, "special", 1));
    }
    return rows;
}

static json_t *byte_level(bool add_prefix_space, bool use_regex) {
    return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space",
                     add_prefix_space ? 1 : 0, "trim_offsets", 1, "use_regex", use_regex ? 1 : 0);
}

static json_t *pre_tokenizer(const SplitFacts *split) {
    if (split->in_byte_level) return byte_level(false, true);
    json_t *pattern = json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split", "pattern", "Regex",
                                split->pattern, "behavior", "Isolated", "invert", 0);
    return json_pack("{s:s, s:[o, o]}", "type", "Sequence", "pretokenizers", pattern,
                     byte_level(false, false));
}

static json_t *vocabulary(const TokenizerSpec *spec) {
    json_t *vocab = json_object();
    for (int32_t id = 0; id < spec->tokens.count; id++) {
        size_t bytes;
        const uint8_t *text = byte_strings_get(&spec->tokens, id, &bytes);
        char *key = strndup((const char *)text, bytes);
        CHECK_MEMORY(key, "no memory for a token of %zu bytes", bytes);
        json_object_set_new_nocheck(vocab, key, json_integer(id));
        free(key);
    }
    return vocab;
}

static json_t *merges(const TokenizerSpec *spec) {
    json_t *rows = json_array();
    for (int64_t i = 0; i < spec->merge_count; i++) {
        json_t *pair = json_array();
        json_array_append_new(pair, token_text(spec, spec->merges[i].left));
        json_array_append_new(pair, token_text(spec, spec->merges[i].right));
        json_array_append_new(rows, pair);
    }
    return rows;
}

char *tokenizer_write(const TokenizerSpec *spec, size_t *bytes) {
    const SplitFacts *split = split_facts(spec->split);
    json_t *normalizer = split->nfc ? json_pack("{s:s}", "type", "NFC") : json_null();
    json_t *model =
        json_pack("{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:b, s:o, s:o}", "type", "BPE", "dropout",
                  "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 0,
                  "byte_fallback", 0, "ignore_merges", spec->whole_words ? 1 : 0, "vocab",
                  vocabulary(spec), "merges", merges(spec));
    json_t *root = json_pack("{s:s, s:n, s:n, s:o, s:o, s:o, s:n, s:o, s:o}", "version", "1.0",
                             "truncation", "padding", "added_tokens", added_tokens(spec),
                             "normalizer", normalizer, "pre_tokenizer", pre_tokenizer(split),
                             "post_processor", "decoder", byte_level(true, true), "model", model);
    char *text = json_dumps(root, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
    CHECK_MEMORY(text, "no memory to write a tokenizer of %d tokens", (int)spec->tokens.count);
    json_decref(root);
    *bytes = strlen(text);
    return text;
}
