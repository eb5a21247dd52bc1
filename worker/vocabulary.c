#include "worker/vocabulary.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/file_reader.h"
#include "worker/utf8.h"

static DataFormat resolve_format(const DataConfig *config) {
    if (config->format != DATA_AUTO) return config->format;
    size_t length = strlen(config->train);
    bool is_bin = length >= 4 && strcmp(config->train + length - 4, ".bin") == 0;
    return is_bin ? DATA_UINT16 : DATA_BYTES;
}

static double resolve_bytes_per_token(DataFormat format, const DataConfig *config) {
    if (format == DATA_BYTES) return 1.0;
    return format == DATA_CHARACTERS ? 0.0 : config->bytes_per_token;
}

// Collects the distinct code points of a text into vocabulary->code_points, ascending.
static bool collect_code_points(Vocabulary *vocabulary, const uint8_t *text, int64_t bytes,
                                const char *path, Error *err) {
    uint8_t *seen = calloc(CODE_POINTS, 1);
    CHECK_MEMORY(seen, "no memory for %d bytes", CODE_POINTS);
    bool ok = true;
    for (int64_t at = 0; ok && at < bytes;) {
        int32_t code_point = 0;
        ok = utf8_next(text, bytes, &at, &code_point, path, err);
        vocabulary->size += ok && !seen[code_point];
        seen[code_point] = 1;
    }
    if (ok) {
        vocabulary->code_points = malloc((size_t)vocabulary->size * sizeof(int32_t));
        CHECK_MEMORY(vocabulary->code_points, "no memory for %lld code points",
              (long long)vocabulary->size);
        int64_t count = 0;
        for (int32_t i = 0; i < CODE_POINTS; i++)
            if (seen[i]) vocabulary->code_points[count++] = i;
    }
    free(seen);
    return ok;
}

static bool read_characters(Vocabulary *vocabulary, const char *path, Error *err) {
    FileReader file;
    uint8_t *text = NULL;
    bool ok = file_reader_open(&file, path, err) && file_reader_read_all(&file, &text, err) &&
              collect_code_points(vocabulary, text, file.bytes, path, err);
    free(text);
    file_reader_close(&file);
    return ok;
}

bool vocabulary_open(Vocabulary *vocabulary, const DataConfig *config, Error *err) {
    Vocabulary v = {.format = resolve_format(config)};
    v.bytes_per_token = resolve_bytes_per_token(v.format, config);
    if (v.format == DATA_UINT16 || v.format == DATA_UINT32) {
        bool narrow = v.format == DATA_UINT16;
        int64_t limit = narrow ? 1 << 16 : INT32_MAX;
        if (config->vocab_size < 1 || config->vocab_size > limit)
            return error_set(err, EXIT_CONFIG,
                             "data.vocab_size is %lld; files of token numbers need it set, from 1 "
                             "to %lld for %s",
                             (long long)config->vocab_size, (long long)limit,
                             narrow ? "uint16" : "uint32");
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

void vocabulary_from_code_points(Vocabulary *vocabulary, const DataConfig *config,
                                 const int32_t *code_points, int64_t size) {
    *vocabulary = (Vocabulary){.format = resolve_format(config), .size = size};
    vocabulary->bytes_per_token = resolve_bytes_per_token(vocabulary->format, config);
    if (vocabulary->format != DATA_CHARACTERS) return;
    size_t bytes = (size_t)size * sizeof *code_points;
    vocabulary->code_points = malloc(bytes);
    CHECK_MEMORY(vocabulary->code_points, "no memory for %lld code points", (long long)size);
    memcpy(vocabulary->code_points, code_points, bytes);
}

void vocabulary_free(Vocabulary *vocabulary) {
    free(vocabulary->code_points);
    *vocabulary = (Vocabulary){0};
}

int32_t vocabulary_find(const Vocabulary *vocabulary, int32_t code_point) {
    int64_t low = 0, high = vocabulary->size; // the answer, if any, is in [low, high)
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (vocabulary->code_points[middle] == code_point) return (int32_t)middle;
        if (vocabulary->code_points[middle] < code_point)
            low = middle + 1;
        else
            high = middle;
    }
    return -1;
}

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
        errno = 0;
        long long number = strtoll(*text, &end, 10);
        bool is_whole = end != *text && (*end == '\0' || *end == ' ');
        if (!is_whole || errno || number < 0 || number >= vocabulary->size)
            return error_set(err, EXIT_CONFIG,
                             "'%.*s' is not a token; this vocabulary has no text: write numbers "
                             "from 0 to %lld, separated by spaces",
                             (int)strcspn(*text, " "), *text, (long long)vocabulary->size - 1);
        *token = (int32_t)number;
        *text = end + strspn(end, " ");
    }
    return true;
}

bool vocabulary_encode(const Vocabulary *vocabulary, const char *text, int32_t *tokens,
                       int64_t room, int64_t *count, Error *err) {
    if (vocabulary->format == DATA_UINT16 || vocabulary->format == DATA_UINT32)
        text += strspn(text, " ");
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
