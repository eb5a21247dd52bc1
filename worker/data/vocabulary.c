#include "worker/data/vocabulary.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/data/data_format.h"
#include "worker/data/vocabulary_kind.h"

static double resolve_bytes_per_token(DataFormat format, const DataConfig *config) {
    if (format == DATA_BYTES) return 1.0;
    return format == DATA_CHARACTERS ? 0.0 : config->bytes_per_token;
}

static Vocabulary begin_vocabulary(const DataConfig *config) {
    Vocabulary vocabulary = {.format = data_format_resolve(config)};
    vocabulary.bytes_per_token = resolve_bytes_per_token(vocabulary.format, config);
    vocabulary.content = content_rules(config);
    return vocabulary;
}

// ---- bytes --------------------------------------------------------------------------------------

static bool open_bytes(Vocabulary *vocabulary, const DataConfig *config, Error *err) {
    (void)config, (void)err;
    vocabulary->size = 256;
    return true;
}

static bool restore_bytes(Vocabulary *vocabulary, const DataConfig *config, const void *saved,
                          int64_t count) {
    (void)config, (void)count;
    return !saved && vocabulary->size == 256;
}

static bool encode_bytes(const Vocabulary *vocabulary, const char *text, int32_t *tokens,
                         int64_t room, int64_t *count, Error *err) {
    (void)vocabulary;
    for (*count = 0; *text != '\0'; text++) {
        if (*count == room) return vocabulary_too_long(room, err);
        tokens[(*count)++] = (uint8_t)*text;
    }
    return true;
}

static const char *decode_byte(const Vocabulary *vocabulary, int32_t token, char scratch[32],
                               size_t *bytes) {
    (void)vocabulary;
    scratch[0] = (char)token;
    *bytes = 1;
    return scratch;
}

// ---- somebody else's token numbers --------------------------------------------------------------

static const char SEPARATORS[] = " \t\r\n"; // of token numbers

static bool open_numbers(Vocabulary *vocabulary, const DataConfig *config, Error *err) {
    const DataFormatFacts *facts = data_format_facts(vocabulary->format);
    vocabulary->size = config->vocab_size;
    return (config->vocab_size >= 1 && config->vocab_size <= facts->most_tokens) ||
           error_set(err, EXIT_CONFIG,
                     "data.vocab_size is %lld; files of token numbers need it set, from 1 to %lld "
                     "for %s",
                     (long long)config->vocab_size, (long long)facts->most_tokens,
                     facts->choice.word);
}

static bool restore_numbers(Vocabulary *vocabulary, const DataConfig *config, const void *saved,
                            int64_t count) {
    (void)count;
    int64_t size = vocabulary->size;
    return !saved && size >= 1 && size <= data_format_facts(vocabulary->format)->most_tokens &&
           (config->vocab_size == 0 || config->vocab_size == size);
}

static bool encode_numbers(const Vocabulary *vocabulary, const char *text, int32_t *tokens,
                           int64_t room, int64_t *count, Error *err) {
    text += strspn(text, SEPARATORS);
    for (*count = 0; *text != '\0'; ++*count) {
        char *end;
        int shown = (int)strcspn(text, SEPARATORS);
        if (*count == room) return vocabulary_too_long(room, err);
        errno = 0;
        long long number = strtoll(text, &end, 10);
        bool is_whole = end != text && (*end == '\0' || strchr(SEPARATORS, *end));
        if (!is_whole || errno || number < 0 || number >= vocabulary->size)
            return error_set(err, EXIT_CONFIG,
                             "'%.*s' is not a token; this vocabulary has no text: write numbers "
                             "from 0 to %lld, separated by spaces",
                             shown > 60 ? 60 : shown, text, (long long)vocabulary->size - 1);
        tokens[*count] = (int32_t)number;
        text = end + strspn(end, SEPARATORS);
    }
    return true;
}

static const char *decode_number(const Vocabulary *vocabulary, int32_t token, char scratch[32],
                                 size_t *bytes) {
    (void)vocabulary;
    *bytes = (size_t)snprintf(scratch, 32, "%d ", (int)token);
    return scratch;
}

// ---- the kinds ----------------------------------------------------------------------------------

static const VocabularyKind BYTES = {NULL,          NULL,         open_bytes,
                                     restore_bytes, encode_bytes, decode_byte};
static const VocabularyKind NUMBERS = {NULL,           NULL,         open_numbers, restore_numbers,
                                       encode_numbers, decode_number};

static const VocabularyKind *kind_of(const Vocabulary *vocabulary) {
    switch (vocabulary->format) {
    case DATA_AUTO: // never
    case DATA_BYTES:
        break;
    case DATA_CHARACTERS:
        return &CHARACTER_VOCABULARY;
    case DATA_TOKENIZER:
        return &TOKENIZER_VOCABULARY;
    case DATA_UINT16:
    case DATA_UINT32:
    case DATA_TOKENS:
        return &NUMBERS;
    }
    return &BYTES;
}

bool vocabulary_open(Vocabulary *vocabulary, const DataConfig *config, Error *err) {
    Vocabulary v = begin_vocabulary(config);
    if (!kind_of(&v)->open(&v, config, err)) return false;
    if (config->vocab_size != 0 && config->vocab_size != v.size) {
        error_set(err, EXIT_CONFIG,
                  "data.vocab_size is %lld but the text has a vocabulary of %lld; leave the key "
                  "out",
                  (long long)config->vocab_size, (long long)v.size);
        vocabulary_free(&v);
        return false;
    }
    *vocabulary = v;
    return true;
}

void vocabulary_free(Vocabulary *vocabulary) {
    free(vocabulary->code_points);
    tokenizer_free(vocabulary->tokenizer);
    character_text_free(&vocabulary->text);
    *vocabulary = (Vocabulary){0};
}

// ---- in checkpoints -----------------------------------------------------------------------------

const SavedVocabulary *saved_vocabulary(int number) {
    const SavedVocabulary *const rows[] = {CHARACTER_VOCABULARY.saved, TOKENIZER_VOCABULARY.saved};
    return number < (int)(sizeof rows / sizeof *rows) ? rows[number] : NULL;
}

const SavedVocabulary *vocabulary_saved(const Vocabulary *vocabulary, const void **data,
                                        int64_t *count) {
    const VocabularyKind *kind = kind_of(vocabulary);
    *count = 0;
    *data = kind->keep ? kind->keep(vocabulary, count) : NULL;
    return kind->saved;
}

bool vocabulary_from_checkpoint(Vocabulary *vocabulary, const DataConfig *config,
                                const SavedVocabulary *saved, const void *data, int64_t count,
                                int64_t size, Error *err) {
    Vocabulary v = begin_vocabulary(config);
    v.size = size;
    v.fixed = true;
    const VocabularyKind *kind = kind_of(&v);
    if (saved == kind->saved && kind->restore(&v, config, data, count)) {
        *vocabulary = v;
        return true;
    }
    return error_set(err, EXIT_CHECKPOINT,
                     "its vocabulary contradicts itself: data.format %s, data.vocab_size %lld, an "
                     "embedding of %lld rows, %s%s; it was not written by this program as it is, "
                     "use another checkpoint",
                     data_format_name(v.format), (long long)config->vocab_size, (long long)size,
                     saved ? "with " : "nothing else", saved ? saved->name : "");
}

// ---- text ---------------------------------------------------------------------------------------

int32_t vocabulary_find(const Vocabulary *vocabulary, int32_t code_point) {
    return code_point_find(vocabulary->code_points, vocabulary->size, code_point);
}

bool vocabulary_too_long(int64_t room, Error *err) {
    return error_set(err, EXIT_CONFIG, "the text has more than %lld tokens; shorten it",
                     (long long)room);
}

int64_t vocabulary_most_tokens(int64_t bytes) {
    return 3 * bytes + 1;
}

bool vocabulary_encode(const Vocabulary *vocabulary, const char *text, int32_t *tokens,
                       int64_t room, int64_t *count, Error *err) {
    int64_t n = 0;
    if (!kind_of(vocabulary)->encode(vocabulary, text, tokens, room, &n, err)) return false;
    for (int64_t i = 0; i < n; i++)
        if (tokens[i] >= vocabulary->size)
            return error_set(err, EXIT_CONFIG, "token %d is outside the vocabulary of %lld",
                             (int)tokens[i], (long long)vocabulary->size);
    *count = n;
    return true;
}

int32_t vocabulary_first_token(const Vocabulary *vocabulary) {
    int32_t token = 0;
    int64_t count = 0;
    Error none = {0};
    return vocabulary_encode(vocabulary, "\n", &token, 1, &count, &none) && count == 1 ? token : 0;
}

const char *vocabulary_decode(const Vocabulary *vocabulary, int32_t token, char scratch[32],
                              size_t *bytes) {
    CHECK(token >= 0 && token < vocabulary->size, "token %d of a vocabulary of %lld", (int)token,
          (long long)vocabulary->size);
    return kind_of(vocabulary)->decode(vocabulary, token, scratch, bytes);
}
