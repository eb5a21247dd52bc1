#include "worker/vocabulary.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/utf8.h"
#include "worker/data_format.h"

static double resolve_bytes_per_token(DataFormat format, const DataConfig *config) {
    if (format == DATA_BYTES) return 1.0;
    return format == DATA_CHARACTERS ? 0.0 : config->bytes_per_token;
}

static Vocabulary begin_vocabulary(const DataConfig *config) {
    Vocabulary vocabulary = {.format = data_format_resolve(config)};
    vocabulary.bytes_per_token = resolve_bytes_per_token(vocabulary.format, config);
    vocabulary.check_content = config->check && config->format != DATA_BYTES;
    return vocabulary;
}

static bool read_characters(Vocabulary *vocabulary, const char *path, Error *err) {
    FileReader file;
    bool ok = file_reader_open(&file, path, err) &&
              (!vocabulary->check_content || data_format_check(&file, DATA_CHARACTERS, err)) &&
              character_text_collect(&vocabulary->text, &file, &vocabulary->code_points,
                                     &vocabulary->size, err);
    file_reader_close(&file);
    return ok;
}

bool vocabulary_open(Vocabulary *vocabulary, const DataConfig *config, Error *err) {
    Vocabulary v = begin_vocabulary(config);
    const DataFormatFacts *facts = data_format_facts(v.format);
    if (facts->numbers) {
        if (config->vocab_size < 1 || config->vocab_size > facts->most_tokens)
            return error_set(err, EXIT_CONFIG,
                             "data.vocab_size is %lld; files of token numbers need it set, from 1 "
                             "to %lld for %s",
                             (long long)config->vocab_size, (long long)facts->most_tokens,
                             facts->choice.word);
        v.size = config->vocab_size;
    } else if (v.format == DATA_BYTES) {
        v.size = 256;
    } else if (!read_characters(&v, config->train, err)) {
        return false;
    }
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

// Whether a checkpoint's vocabulary is one that this program writes: ids index the embedding, code
// points are characters.
static bool is_consistent(DataFormat format, const int32_t *code_points, int64_t size) {
    if (format == DATA_BYTES) return !code_points && size == 256;
    const DataFormatFacts *facts = data_format_facts(format);
    if (facts->numbers) return !code_points && size >= 1 && size <= facts->most_tokens;
    bool ok = code_points && size >= 1 && size <= CODE_POINTS && code_points[0] >= 0 &&
              code_points[size - 1] < CODE_POINTS;
    for (int64_t i = 1; ok && i < size; i++) ok = code_points[i - 1] < code_points[i];
    return ok;
}

bool vocabulary_from_checkpoint(Vocabulary *vocabulary, const DataConfig *config,
                                const int32_t *code_points, int64_t size, Error *err) {
    Vocabulary v = begin_vocabulary(config);
    v.size = size;
    v.fixed = true;
    bool numbers = data_format_facts(v.format)->numbers;
    if (!is_consistent(v.format, code_points, size) ||
        (numbers && config->vocab_size != 0 && config->vocab_size != size))
        return error_set(err, EXIT_CHECKPOINT,
                         "its vocabulary contradicts itself: data.format %s, data.vocab_size %lld, "
                         "an embedding of %lld rows, %s code points; it was not written by this "
                         "program as it is, use another checkpoint",
                         data_format_name(v.format), (long long)config->vocab_size, (long long)size,
                         code_points ? "with" : "without");
    if (v.format == DATA_CHARACTERS) {
        size_t bytes = (size_t)size * sizeof *code_points;
        v.code_points = malloc(bytes);
        CHECK_MEMORY(v.code_points, "no memory for %lld code points", (long long)size);
        memcpy(v.code_points, code_points, bytes);
    }
    *vocabulary = v;
    return true;
}

void vocabulary_free(Vocabulary *vocabulary) {
    free(vocabulary->code_points);
    character_text_free(&vocabulary->text);
    *vocabulary = (Vocabulary){0};
}

int32_t vocabulary_find(const Vocabulary *vocabulary, int32_t code_point) {
    return code_point_find(vocabulary->code_points, vocabulary->size, code_point);
}

static const char SEPARATORS[] = " \t\r\n"; // of token numbers

// Takes one token off the front of *text and moves *text behind it.
static bool encode_one(const Vocabulary *vocabulary, const char **text, int32_t *token,
                       Error *err) {
    if (vocabulary->format == DATA_BYTES) {
        *token = (uint8_t)(*text)[0];
        *text += 1;
    } else if (vocabulary->format == DATA_CHARACTERS) {
        int32_t code_point;
        int length = utf8_decode((const uint8_t *)*text, strnlen(*text, 4), &code_point);
        if (length == 0)
            return error_set(err, EXIT_CONFIG, "byte 0x%02X of the text is not valid UTF-8",
                             (uint8_t) * *text);
        *token = vocabulary_find(vocabulary, code_point);
        if (*token < 0)
            return error_set(err, EXIT_CONFIG,
                             "character '%.*s' (U+%04X) of the text is not in the vocabulary of "
                             "%lld characters; leave it out",
                             length, *text, (unsigned)code_point, (long long)vocabulary->size);
        *text += length;
    } else {
        char *end;
        int shown = (int)strcspn(*text, SEPARATORS);
        if (shown > 60) shown = 60;
        errno = 0;
        long long number = strtoll(*text, &end, 10);
        bool is_whole = end != *text && (*end == '\0' || strchr(SEPARATORS, *end));
        if (!is_whole || errno || number < 0 || number >= vocabulary->size)
            return error_set(err, EXIT_CONFIG,
                             "'%.*s' is not a token; this vocabulary has no text: write numbers "
                             "from 0 to %lld, separated by spaces",
                             shown, *text, (long long)vocabulary->size - 1);
        *token = (int32_t)number;
        *text = end + strspn(end, SEPARATORS);
    }
    if (*token < vocabulary->size) return true;
    return error_set(err, EXIT_CONFIG, "token %d is outside the vocabulary of %lld", (int)*token,
                     (long long)vocabulary->size);
}

bool vocabulary_encode(const Vocabulary *vocabulary, const char *text, int32_t *tokens,
                       int64_t room, int64_t *count, Error *err) {
    if (data_format_facts(vocabulary->format)->numbers) text += strspn(text, SEPARATORS);
    int64_t n = 0;
    while (*text != '\0') {
        if (n == room)
            return error_set(err, EXIT_CONFIG, "the text has more than %lld tokens; shorten it",
                             (long long)room);
        if (!encode_one(vocabulary, &text, &tokens[n], err)) return false;
        n++;
    }
    *count = n;
    return true;
}

int vocabulary_decode(const Vocabulary *vocabulary, int32_t token, char text[32]) {
    CHECK(token >= 0 && token < vocabulary->size, "token %d of a vocabulary of %lld", (int)token,
          (long long)vocabulary->size);
    switch (vocabulary->format) {
    case DATA_BYTES:
        text[0] = (char)token;
        text[1] = '\0';
        return 1;
    case DATA_CHARACTERS:
        return utf8_encode(vocabulary->code_points[token], text);
    case DATA_AUTO: // never
    case DATA_UINT16:
    case DATA_UINT32:
        break;
    }
    return snprintf(text, 32, "%d ", (int)token);
}
