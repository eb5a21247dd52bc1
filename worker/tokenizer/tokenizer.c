#include "worker/tokenizer/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/utf8.h"
#include "worker/tokenizer/normal_form.h"

void tokenizer_free(Tokenizer *tokenizer) {
    if (!tokenizer) return;
    free(tokenizer->json);
    bpe_free(&tokenizer->bpe);
    token_search_close(&tokenizer->raw);
    token_search_close(&tokenizer->normalized);
    added_tokens_free(&tokenizer->added);
    free(tokenizer->added_of);
    pre_split_free(tokenizer->split);
    free(tokenizer);
}

const uint8_t *tokenizer_decode(const Tokenizer *tokenizer, int32_t token, size_t *bytes) {
    CHECK(token >= 0 && token < tokenizer->size, "token %d of a vocabulary of %lld", (int)token,
          (long long)tokenizer->size);
    int32_t row = tokenizer->added_of[token];
    if (row >= 0) {
        *bytes = tokenizer->added.rows[row].bytes;
        return tokenizer->added.rows[row].content;
    }
    const uint8_t *text =
        token < tokenizer->bpe.size ? bpe_token(&tokenizer->bpe, token, bytes) : NULL;
    if (!text) *bytes = 0;
    return text ? text : (const uint8_t *)"";
}

// ---- encoding -----------------------------------------------------------------------------------

enum { CACHED_BYTES = 48, CACHED_WORDS = 1 << 16 };

// Tokens of words that have been met, forgotten together when they are too many.
typedef struct WordCache {
    ByteStrings words;
    TokenList tokens; // of all words, one behind the other
    int64_t *begin;   // (words.count + 1)
} WordCache;

struct Encoder {
    const Tokenizer *tokenizer;
    PreSplitRunner *split;
    BpeScratch scratch;
    WordCache cache;
    uint8_t *prefixed; // a text with a space before it
    size_t prefixed_room;
    TokenList *out;
};

Encoder *encoder_open(const Tokenizer *tokenizer) {
    Encoder *encoder = calloc(1, sizeof *encoder);
    CHECK_MEMORY(encoder, "no memory to encode text");
    encoder->tokenizer = tokenizer;
    encoder->split = pre_split_runner(tokenizer->split);
    encoder->cache.begin = calloc(CACHED_WORDS + 1, sizeof *encoder->cache.begin);
    CHECK_MEMORY(encoder->cache.begin, "no memory to encode text");
    return encoder;
}

void encoder_close(Encoder *encoder) {
    if (!encoder) return;
    pre_split_runner_free(encoder->split);
    bpe_scratch_free(&encoder->scratch);
    byte_strings_free(&encoder->cache.words);
    token_list_free(&encoder->cache.tokens);
    free(encoder->cache.begin);
    free(encoder->prefixed);
    free(encoder);
}

static void encode_word(void *context, const uint8_t *word, size_t bytes) {
    Encoder *encoder = context;
    const Bpe *bpe = &encoder->tokenizer->bpe;
    WordCache *cache = &encoder->cache;
    if (bytes > CACHED_BYTES) {
        bpe_encode(bpe, &encoder->scratch, word, bytes, encoder->out);
        return;
    }
    if (cache->words.count == CACHED_WORDS) {
        byte_strings_clear(&cache->words);
        cache->tokens.count = 0;
    }
    bool is_new;
    int32_t number = byte_strings_add(&cache->words, word, bytes, &is_new);
    if (is_new) {
        bpe_encode(bpe, &encoder->scratch, word, bytes, &cache->tokens);
        cache->begin[number + 1] = cache->tokens.count;
    }
    for (int64_t i = cache->begin[number]; i < cache->begin[number + 1]; i++)
        token_list_add(encoder->out, cache->tokens.ids[i]);
}

// What lies between added tokens.
static bool encode_words(Encoder *encoder, const uint8_t *text, size_t bytes, Error *err) {
    if (bytes == 0) return true;
    if (encoder->tokenizer->add_prefix_space && text[0] != ' ') {
        if (encoder->prefixed_room < bytes + 1) {
            free(encoder->prefixed);
            encoder->prefixed = malloc(bytes + 1);
            CHECK_MEMORY(encoder->prefixed, "no memory for %zu bytes of text", bytes);
            encoder->prefixed_room = bytes + 1;
        }
        encoder->prefixed[0] = ' ';
        memcpy(encoder->prefixed + 1, text, bytes++);
        text = encoder->prefixed;
    }
    return pre_split_run(encoder->split, text, bytes, encode_word, encoder, err);
}

typedef bool PartFunction(Encoder *encoder, const uint8_t *text, size_t bytes, Error *err);

// Tokens of the search, and what lies between them by way of `other`.
static bool encode_around(Encoder *encoder, const TokenSearch *search, PartFunction *other,
                          const uint8_t *text, size_t bytes, Error *err) {
    size_t done = 0, at = 0;
    const AddedToken *token;
    while ((token = token_search_next(search, text, bytes, &at))) {
        size_t begin = at, end = at + token->bytes;
        at = end;
        if (token->strips_left && begin > done) begin -= white_space_before(text, done, begin);
        if (token->strips_right) end += white_space_after(text, end, bytes);
        if (begin > done && !other(encoder, text + done, begin - done, err)) return false;
        token_list_add(encoder->out, token->id);
        done = end;
    }
    return done >= bytes || other(encoder, text + done, bytes - done, err);
}

static bool encode_normalized(Encoder *encoder, const uint8_t *text, size_t bytes, Error *err) {
    const Tokenizer *tokenizer = encoder->tokenizer;
    uint8_t *composed = NULL;
    if (tokenizer->nfc && normal_form_may_change(text, bytes))
        text = composed = normal_form_compose(text, bytes, &bytes);
    bool ok = encode_around(encoder, &tokenizer->normalized, encode_words, text, bytes, err);
    free(composed);
    return ok;
}

bool encoder_encode(Encoder *encoder, const void *text, size_t bytes, TokenList *tokens,
                    Error *err) {
    const uint8_t *at = text, *end = at + bytes;
    encoder->out = tokens;
    while (at < end) {
        size_t valid = utf8_valid_bytes(at, (size_t)(end - at));
        if (valid > 0 &&
            !encode_around(encoder, &encoder->tokenizer->raw, encode_normalized, at, valid, err))
            return false;
        at += valid;
        if (at < end) token_list_add(tokens, encoder->tokenizer->bpe.byte_ids[*at++]);
    }
    return true;
}
