// Tokenizers from files, known by their content: a tokenizer.json begins with a brace.
#include <stdlib.h>
#include <string.h>

#include "worker/data/file_reader.h"
#include "worker/tokenizer/tiktoken_file.h"
#include "worker/tokenizer/tokenizer.h"

enum { MOST_FILE_BYTES = 256 << 20 };

// The whole file, to be freed by the caller; NULL with exit 3.
static char *load(const char *path, size_t *bytes, Error *err) {
    FileReader file;
    char *text = NULL;
    if (!file_reader_open(&file, path, err)) return NULL;
    *bytes = (size_t)file.bytes;
    if (file.bytes > MOST_FILE_BYTES)
        error_set(err, EXIT_DATA, "%s: %lld bytes are no tokenizer, which has up to %d", path,
                  (long long)file.bytes, MOST_FILE_BYTES);
    else
        CHECK_MEMORY(text = malloc(*bytes), "no memory for %zu bytes of %s", *bytes, path);
    if (text && !file_reader_read(&file, 0, *bytes, text, err)) {
        free(text);
        text = NULL;
    }
    file_reader_close(&file);
    return text;
}

static bool is_json(const char *text, size_t bytes) {
    size_t at = 0;
    while (at < bytes && strchr(" \t\r\n", text[at])) at++;
    return at < bytes && text[at] == '{';
}

// The tokenizer.json that says the same as ranks, to be freed by the caller.
static char *json_of_ranks(const char *text, size_t bytes, const char *pattern, const char *special,
                           size_t *json_bytes, Error *err) {
    TokenizerSpec spec = {0};
    int split = pattern ? choice_find(SPLIT_CHOICES, pattern) : -1;
    if (split < 0)
        return error_set(err, EXIT_DATA,
                         "is no tokenizer.json; if it holds ranks of tiktoken, name the pattern "
                         "that cuts its words: --pattern gpt2, llama3 (also cl100k), qwen2 or "
                         "o200k of moetrain convert-tokenizer, which makes a tokenizer.json of "
                         "them"),
               NULL;
    if (!tiktoken_file_read(text, bytes, (SplitKind)split, special, &spec, err)) return NULL;
    char *json = tokenizer_write(&spec, json_bytes);
    tokenizer_spec_free(&spec);
    return json;
}

static bool from_ranks(Tokenizer **tokenizer, const char *text, size_t bytes, const char *pattern,
                       Error *err) {
    size_t json_bytes = 0;
    char *json = json_of_ranks(text, bytes, pattern, "", &json_bytes, err);
    bool ok = json && tokenizer_from_json(tokenizer, json, json_bytes, err);
    free(json);
    return ok;
}

bool tokenizer_convert(const char *path, const char *pattern, const char *special, char **json,
                       size_t *json_bytes, Error *err) {
    size_t bytes = 0;
    char *text = load(path, &bytes, err);
    if (!text) return false;
    *json =
        is_json(text, bytes)
            ? (error_set(err, EXIT_DATA, "is a tokenizer.json, which needs no conversion"), NULL)
            : json_of_ranks(text, bytes, pattern, special, json_bytes, err);
    free(text);
    return *json || error_prefix(err, "%s", path);
}

bool tokenizer_read(Tokenizer **tokenizer, const char *path, const char *pattern, Error *err) {
    size_t bytes = 0;
    char *text = load(path, &bytes, err);
    if (!text) return false;
    bool ok = is_json(text, bytes) ? tokenizer_from_json(tokenizer, text, bytes, err)
                                   : from_ranks(tokenizer, text, bytes, pattern, err);
    free(text);
    return ok || error_prefix(err, "%s", path);
}
