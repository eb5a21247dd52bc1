// The characters of the training text, one token each.
#include <stdlib.h>
#include <string.h>

#include "kernels/utf8.h"
#include "worker/data/vocabulary_kind.h"

static bool read_characters(Vocabulary *vocabulary, const DataConfig *config, Error *err) {
    DataContent content = {0};
    const char *path = config->train.maps[0].path;
    bool ok = data_content_open(&content, path, &vocabulary->content, err) &&
              character_text_collect(&vocabulary->text, &content.file, &vocabulary->code_points,
                                     &vocabulary->size, err);
    data_content_close(&content);
    return ok;
}

// Ids index the embedding, code points are characters in ascending order.
static bool restore(Vocabulary *vocabulary, const DataConfig *config, const void *saved,
                    int64_t count) {
    (void)config;
    const int32_t *code_points = saved;
    int64_t size = vocabulary->size;
    bool ok = code_points && count == size && size >= 1 && size <= CODE_POINTS &&
              code_points[0] >= 0 && code_points[size - 1] < CODE_POINTS;
    for (int64_t i = 1; ok && i < size; i++) ok = code_points[i - 1] < code_points[i];
    if (!ok) return false;
    size_t bytes = (size_t)size * sizeof *code_points;
    vocabulary->code_points = malloc(bytes);
    CHECK_MEMORY(vocabulary->code_points, "no memory for %lld code points", (long long)size);
    memcpy(vocabulary->code_points, code_points, bytes);
    return true;
}

static const void *keep(const Vocabulary *vocabulary, int64_t *count) {
    *count = vocabulary->size;
    return vocabulary->code_points;
}

static bool encode(const Vocabulary *vocabulary, const char *text, int32_t *tokens, int64_t room,
                   int64_t *count, Error *err) {
    for (*count = 0; *text != '\0'; ++*count) {
        int32_t code_point;
        int length = utf8_decode((const uint8_t *)text, strnlen(text, 4), &code_point);
        if (*count == room) return vocabulary_too_long(room, err);
        if (length == 0)
            return error_set(err, EXIT_CONFIG, "byte 0x%02X of the text is not valid UTF-8",
                             (uint8_t)*text);
        tokens[*count] = vocabulary_find(vocabulary, code_point);
        if (tokens[*count] < 0)
            return error_set(err, EXIT_CONFIG,
                             "character '%.*s' (U+%04X) of the text is not in the vocabulary of "
                             "%lld characters; leave it out",
                             length, text, (unsigned)code_point, (long long)vocabulary->size);
        text += length;
    }
    return true;
}

static const char *decode(const Vocabulary *vocabulary, int32_t token, char scratch[32],
                          size_t *bytes) {
    *bytes = (size_t)utf8_encode(vocabulary->code_points[token], scratch);
    return scratch;
}

static const SavedVocabulary SAVED = {"data/code_points", I32};
const VocabularyKind CHARACTER_VOCABULARY = {&SAVED,  keep,   read_characters,
                                             restore, encode, decode};
