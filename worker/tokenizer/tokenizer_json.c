// Reading tokenizer.json, as the tokenizers library of Hugging Face writes it. What would change
// tokens and is not honoured here is refused by the name of its field: text must have the tokens
// that the library gives it, or none.
#include "worker/tokenizer/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "worker/tokenizer/byte_level.h"
#include "worker/tokenizer/json_fields.h"
#include "worker/tokenizer/normal_form.h"
#include "worker/tokenizer/tokenizer_parts.h"

// ---- the vocabulary -----------------------------------------------------------------------------

static bool read_id(const json_t *value, const char *of, int32_t *id, Error *err) {
    json_int_t number = json_is_integer(value) ? json_integer_value(value) : -1;
    if (number < 0 || number >= MOST_TOKEN_IDS) {
        char field[160];
        snprintf(field, sizeof field, "the id of token '%.60s'", of);
        return json_refuse(field, value, "ids are whole numbers from 0 to 16777215", err);
    }
    *id = (int32_t)number;
    return true;
}

static uint8_t *take_bytes(size_t count) {
    uint8_t *bytes = malloc(count + 1);
    CHECK_MEMORY(bytes, "no memory for %zu bytes of a token", count);
    return bytes;
}

static bool read_vocabulary(Tokenizer *t, json_t *vocab, Error *err) {
    const char *text;
    json_t *value;
    if (!json_is_object(vocab))
        return json_refuse("model.vocab", vocab, "it must be an object of tokens and their ids",
                           err);
    json_object_foreach(vocab, text, value) {
        int32_t id = -1;
        size_t length = strlen(text), count;
        if (!read_id(value, text, &id, err)) return false;
        uint8_t *bytes = take_bytes(length);
        bool ok = true;
        if (byte_level_read(text, length, bytes, &count)) {
            ok = bpe_add_token(&t->bpe, bytes, count, id) ||
                 error_set(err, EXIT_DATA,
                           "model.vocab gives id %d to '%.60s' and to another token; write the "
                           "file again, it is damaged",
                           (int)id, text);
        } else { // no word can become it
            AddedToken hidden = {.id = id, .content = bytes, .bytes = length, .hidden = true};
            memcpy(bytes, text, length);
            added_tokens_add(&t->added, &hidden);
        }
        free(bytes);
        if (!ok) return false;
    }
    int missing;
    return bpe_find_bytes(&t->bpe, &missing) ||
           error_set(err, EXIT_DATA,
                     "model.vocab has no token for byte 0x%02X, so that text with it would be "
                     "lost; train the tokenizer with the byte-level alphabet",
                     missing);
}

// ---- merges -------------------------------------------------------------------------------------

// The two tokens of a merge, "a b" or ["a", "b"].
static bool split_merge(const json_t *merge, const char *part[2], size_t length[2]) {
    if (json_is_string(merge)) {
        part[0] = json_string_value(merge);
        const char *space = strchr(part[0], ' ');
        if (!space || strchr(space + 1, ' ')) return false;
        length[0] = (size_t)(space - part[0]);
        part[1] = space + 1;
    } else {
        if (json_array_size(merge) != 2) return false;
        for (int i = 0; i < 2; i++) {
            part[i] = json_string_value(json_array_get(merge, (size_t)i));
            if (!part[i]) return false;
        }
        length[0] = strlen(part[0]);
    }
    length[1] = strlen(part[1]);
    return true;
}

static bool read_merge(Bpe *bpe, const json_t *merge) {
    const char *part[2];
    size_t length[2], count[2];
    if (!split_merge(merge, part, length)) return false;
    uint8_t *bytes = take_bytes(length[0] + length[1]);
    int32_t left = -1, right = -1, whole = -1;
    if (byte_level_read(part[0], length[0], bytes, &count[0]) &&
        byte_level_read(part[1], length[1], bytes + count[0], &count[1])) {
        left = bpe_find(bpe, bytes, count[0]);
        right = bpe_find(bpe, bytes + count[0], count[1]);
        whole = bpe_find(bpe, bytes, count[0] + count[1]);
    }
    free(bytes);
    if (left < 0 || right < 0 || whole < 0 || count[0] == 0 || count[1] == 0) return false;
    bpe_add_merge(bpe, left, right, whole);
    return true;
}

static bool read_merges(Bpe *bpe, const json_t *merges, Error *err) {
    size_t i;
    json_t *merge;
    if (!json_is_array(merges))
        return json_refuse("model.merges", merges, "it must be a list of pairs of tokens", err);
    json_array_foreach(merges, i, merge) {
        char field[64];
        snprintf(field, sizeof field, "model.merges[%zu]", i);
        if (!read_merge(bpe, merge))
            return json_refuse(field, merge,
                               "a merge is two tokens whose union is a token of model.vocab too",
                               err);
    }
    return true;
}

static bool is_nothing(const json_t *value) { // null, "" or 0
    return !value || json_is_null(value) ||
           (json_is_string(value) && json_string_length(value) == 0) ||
           (json_is_number(value) && json_number_value(value) == 0);
}

static bool read_model(Tokenizer *t, json_t *model, Error *err) {
    static const char *const known[] = {"type",
                                        "dropout",
                                        "unk_token",
                                        "continuing_subword_prefix",
                                        "end_of_word_suffix",
                                        "fuse_unk",
                                        "byte_fallback",
                                        "ignore_merges",
                                        "vocab",
                                        "merges",
                                        NULL};
    // Of a word without unknown bytes unk_token and fuse_unk make nothing.
    static const char *const off[] = {"dropout", "continuing_subword_prefix", "end_of_word_suffix"};
    const json_t *type = json_object_get(model, "type");
    bool ok = true;
    if (!json_keys_known(model, "model", known, err)) return false;
    if (type && strcmp(part_type(model), "BPE") != 0)
        return json_refuse("model.type", type, "only BPE is known here", err);
    for (int i = 0; i < 3; i++) {
        const json_t *value = json_object_get(model, off[i]);
        char field[64];
        snprintf(field, sizeof field, "model.%s", off[i]);
        if (!is_nothing(value)) return json_refuse(field, value, NULL, err);
    }
    if (json_flag(model, "model", "byte_fallback", false, &ok, err))
        return json_refuse("model.byte_fallback", json_object_get(model, "byte_fallback"), NULL,
                           err);
    t->bpe.whole_words = json_flag(model, "model", "ignore_merges", false, &ok, err);
    return ok && read_vocabulary(t, json_object_get(model, "vocab"), err) &&
           read_merges(&t->bpe, json_object_get(model, "merges"), err);
}

// ---- added tokens -------------------------------------------------------------------------------

static bool read_added_token(Tokenizer *t, const json_t *row, const json_t *vocab,
                             const char *field, Error *err) {
    static const char *const known[] = {"id",     "content",    "single_word", "lstrip",
                                        "rstrip", "normalized", "special",     NULL};
    const char *content = json_string_value(json_object_get(row, "content"));
    bool ok = true;
    if (!json_keys_known(row, field, known, err)) return false;
    if (!content || !content[0])
        return json_refuse(field, row, "an added token needs a content", err);
    AddedToken token = {.content = (uint8_t *)content, .bytes = strlen(content)};
    token.strips_left = json_flag(row, field, "lstrip", false, &ok, err);
    token.strips_right = json_flag(row, field, "rstrip", false, &ok, err);
    token.special = json_flag(row, field, "special", false, &ok, err);
    token.normalized = json_flag(row, field, "normalized", !token.special, &ok, err);
    if (ok && json_flag(row, field, "single_word", false, &ok, err)) {
        char name[160];
        snprintf(name, sizeof name, "%s.single_word", field);
        return json_refuse(name, json_true(), "set it to false if the token may stand in a word",
                           err);
    }
    if (!ok || !read_id(json_object_get(row, "id"), content, &token.id, err)) return false;
    const json_t *in_vocab = json_object_get(vocab, content);
    bool taken = token.id < t->bpe.size && t->bpe.number_of[token.id] >= 0;
    if (in_vocab ? json_integer_value(in_vocab) != token.id : taken)
        return error_set(err, EXIT_DATA,
                         "%s: '%.60s' has id %d, which contradicts model.vocab; write the file "
                         "again, it is damaged",
                         field, content, (int)token.id);
    uint8_t *composed = NULL; // what is looked for in normalized text is normalized too
    if (t->nfc && token.normalized)
        token.content = composed = normal_form_compose(token.content, token.bytes, &token.bytes);
    added_tokens_add(&t->added, &token);
    free(composed);
    return true;
}

static bool read_added_tokens(Tokenizer *t, const json_t *added, const json_t *vocab, Error *err) {
    size_t i;
    json_t *row;
    if (added && !json_is_array(added))
        return json_refuse("added_tokens", added, "it must be a list", err);
    json_array_foreach(added, i, row) {
        char field[64];
        snprintf(field, sizeof field, "added_tokens[%zu]", i);
        if (!read_added_token(t, row, vocab, field, err)) return false;
    }
    return true;
}

// Finds rows by their ids. A hidden token that is added as well is seen.
static bool index_added_tokens(Tokenizer *t, Error *err) {
    AddedTokens *added = &t->added;
    t->size = t->bpe.size;
    for (int32_t i = 0; i < added->count; i++)
        if (added->rows[i].id >= t->size) t->size = (int64_t)added->rows[i].id + 1;
    t->added_of = malloc((size_t)t->size * sizeof *t->added_of);
    CHECK_MEMORY(t->added_of, "no memory for %lld tokens", (long long)t->size);
    for (int64_t i = 0; i < t->size; i++) t->added_of[i] = -1;
    for (int32_t i = 0; i < added->count; i++) {
        const AddedToken *row = &added->rows[i];
        int32_t *place = &t->added_of[row->id];
        const AddedToken *other = *place >= 0 ? &added->rows[*place] : NULL;
        bool in_words = row->hidden && row->id < t->bpe.size && t->bpe.number_of[row->id] >= 0;
        bool itself = other && other->hidden && !row->hidden && other->bytes == row->bytes &&
                      memcmp(other->content, row->content, row->bytes) == 0;
        if (in_words || (other && !itself))
            return error_set(err, EXIT_DATA,
                             "id %d belongs to '%.60s' and to another token; write the file again, "
                             "it is damaged",
                             (int)row->id, (const char *)row->content);
        *place = i;
    }
    token_search_open(&t->raw, added, false);
    token_search_open(&t->normalized, added, true);
    const TokenSearch *searches[] = {&t->raw, &t->normalized};
    for (int s = 0; s < 2; s++)
        for (int32_t i = 1; i < searches[s]->count; i++) {
            const AddedToken *a = searches[s]->rows[i - 1], *b = searches[s]->rows[i];
            if (a->bytes == b->bytes && memcmp(a->content, b->content, a->bytes) == 0)
                return error_set(err, EXIT_DATA,
                                 "added_tokens has '%.60s' twice; write the file again, it is "
                                 "damaged",
                                 (const char *)a->content);
        }
    return true;
}

// ---- the file -----------------------------------------------------------------------------------

static bool read_root(Tokenizer *t, const json_t *root, Error *err) {
    static const char *const known[] = {
        "version",       "truncation",     "padding", "added_tokens", "normalizer",
        "pre_tokenizer", "post_processor", "decoder", "model",        NULL};
    static const char *const off[] = {"truncation", "padding"};
    if (!json_keys_known(root, "", known, err)) return false;
    json_t *model = json_object_get(root, "model"), *vocab = json_object_get(model, "vocab");
    for (int i = 0; i < 2; i++) {
        const json_t *value = json_object_get(root, off[i]);
        if (value && !json_is_null(value))
            return json_refuse(off[i], value, "set it to null: training cuts its own windows", err);
    }
    return read_normalizer(t, json_object_get(root, "normalizer"), err) &&
           read_pre_tokenizer(t, json_object_get(root, "pre_tokenizer"), err) &&
           read_post_processor(t, json_object_get(root, "post_processor"), err) &&
           read_decoder(json_object_get(root, "decoder"), err) && read_model(t, model, err) &&
           read_added_tokens(t, json_object_get(root, "added_tokens"), vocab, err) &&
           index_added_tokens(t, err);
}

bool tokenizer_from_json(Tokenizer **tokenizer, const char *json, size_t bytes, Error *err) {
    json_error_t problem;
    json_t *root = json_loadb(json, bytes, JSON_REJECT_DUPLICATES, &problem);
    if (!root)
        return error_set(err, EXIT_DATA,
                         "line %d, column %d: %.100s; this is no whole tokenizer.json",
                         problem.line, problem.column, problem.text);
    Tokenizer *t = calloc(1, sizeof *t);
    CHECK_MEMORY(t, "no memory for a tokenizer");
    t->split = pre_split_new();
    t->json = malloc(bytes + 1);
    CHECK_MEMORY(t->json, "no memory for %zu bytes of a tokenizer", bytes);
    memcpy(t->json, json, bytes);
    t->json[bytes] = '\0';
    t->json_bytes = bytes;
    t->hash = hash_bytes(json, bytes);
    bool ok = read_root(t, root, err);
    json_decref(root);
    if (ok)
        *tokenizer = t;
    else
        tokenizer_free(t);
    return ok;
}
