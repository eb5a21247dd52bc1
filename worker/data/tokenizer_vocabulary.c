// The tokens of a tokenizer (worker/tokenizer).
#include <stdlib.h>
#include <string.h>

#include "worker/data/vocabulary_kind.h"

static bool open_tokenizer(Vocabulary *vocabulary, const DataConfig *config, Error *err) {
    Tokenizer *tokenizer = NULL;
    if (!tokenizer_read(&tokenizer, config->tokenizer, NULL, err))
        return error_prefix(err, "data.tokenizer");
    if (config->vocab_size != 0 && config->vocab_size < tokenizer->size) {
        error_set(err, EXIT_CONFIG,
                  "data.vocab_size is %lld, but %s has %lld tokens; leave the key out, or write at "
                  "least as many",
                  (long long)config->vocab_size, config->tokenizer, (long long)tokenizer->size);
        tokenizer_free(tokenizer);
        return false;
    }
    vocabulary->tokenizer = tokenizer;
    vocabulary->size = config->vocab_size ? config->vocab_size : tokenizer->size;
    return true;
}

static bool restore(Vocabulary *vocabulary, const DataConfig *config, const void *saved,
                    int64_t count) {
    (void)config;
    Error ignored = {0};
    Tokenizer *tokenizer = NULL;
    if (!saved || !tokenizer_from_json(&tokenizer, saved, (size_t)count, &ignored)) return false;
    vocabulary->tokenizer = tokenizer;
    return tokenizer->size <= vocabulary->size;
}

static const void *keep(const Vocabulary *vocabulary, int64_t *count) {
    *count = (int64_t)vocabulary->tokenizer->json_bytes;
    return vocabulary->tokenizer->json;
}

static bool encode(const Vocabulary *vocabulary, const char *text, int32_t *tokens, int64_t room,
                   int64_t *count, Error *err) {
    Encoder *encoder = encoder_open(vocabulary->tokenizer);
    TokenList list = {0};
    bool ok = encoder_encode(encoder, text, strlen(text), &list, err);
    if (ok && list.count > room) ok = vocabulary_too_long(room, err);
    if (ok && list.count > 0) memcpy(tokens, list.ids, (size_t)list.count * sizeof *tokens);
    *count = list.count;
    token_list_free(&list);
    encoder_close(encoder);
    return ok;
}

// Rows of the embedding behind the tokenizer's tokens stand for nothing.
static const char *decode(const Vocabulary *vocabulary, int32_t token, char scratch[32],
                          size_t *bytes) {
    (void)scratch;
    *bytes = 0;
    if (token >= vocabulary->tokenizer->size) return "";
    return (const char *)tokenizer_decode(vocabulary->tokenizer, token, bytes);
}

static const SavedVocabulary SAVED = {SAVED_TOKENIZER, U8};
const VocabularyKind TOKENIZER_VOCABULARY = {&SAVED, keep, open_tokenizer, restore, encode, decode};
