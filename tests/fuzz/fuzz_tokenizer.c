// Any bytes as a tokenizer.json, as parts of one around a sound vocabulary, or as ranks of
// tiktoken: refused with a message, or any text has tokens, and comes back from them where nothing
// was asked for that changes it. The first byte chooses; up to the first NUL is the file, the rest
// the text.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "seeds.h"
#include "worker/tokenizer/byte_level.h"
#include "worker/tokenizer/character_stream.h"
#include "worker/tokenizer/tiktoken_file.h"
#include "worker/tokenizer/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static void require(bool condition) {
    if (!condition) abort();
}

// A model with all bytes and a few merges; what follows ends the file.
static size_t write_model(char *json) {
    static const char merges[] = "\"aa\":256,\"ab\":257,\"aab\":258},\"merges\":[[\"a\",\"a\"],"
                                 "[\"a\",\"b\"],[\"aa\",\"b\"]]},";
    char *end = stpcpy(json, "{\"model\":{\"vocab\":{");
    for (int i = 0; i < 256; i++) {
        uint8_t byte = (uint8_t)i;
        char text[3] = {0}, row[32];
        byte_level_write(&byte, 1, text);
        snprintf(row, sizeof row, "\"%s%s\":%d,", *text == '"' || *text == '\\' ? "\\" : "", text,
                 i);
        end = stpcpy(end, row);
    }
    return (size_t)(stpcpy(end, merges) - json);
}

static char *around(const char *parts, size_t bytes, size_t *all) {
    static char model[1 << 14];
    static size_t length;
    if (length == 0) length = write_model(model);
    char *json = malloc(length + bytes);
    require(json != NULL);
    memcpy(json, model, length);
    memcpy(json + length, parts, bytes);
    *all = length + bytes;
    return json;
}

// Token after token, as they would be printed.
static void come_back(const Tokenizer *t, const TokenList *tokens, const uint8_t *text,
                      size_t size) {
    bool exact = !t->nfc && !t->add_prefix_space;
    for (int32_t i = 0; i < t->added.count; i++)
        exact = exact && !t->added.rows[i].strips_left && !t->added.rows[i].strips_right;
    CharacterStream stream = {0};
    size_t at = 0;
    for (int64_t i = 0; i <= tokens->count; i++) {
        size_t bytes = 0;
        require(i == tokens->count || (tokens->ids[i] >= 0 && tokens->ids[i] < t->size));
        const uint8_t *piece =
            i < tokens->count ? tokenizer_decode(t, tokens->ids[i], &bytes) : NULL;
        char *out = malloc(bytes + STREAM_ROOM);
        require(out != NULL);
        size_t written = piece ? character_stream_add(&stream, piece, bytes, out)
                               : character_stream_end(&stream, out);
        if (exact) require(at + written <= size && memcmp(text + at, out, written) == 0);
        at += written;
        free(out);
    }
    if (!exact) return;
    require(at == size);
    if (size > 0) reached("the same text");
}

static const char *const files[] = {"a file", "parts", "ranks"};

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    return seeds_must_reach((const char *const[]){files[0], files[1], files[2], "the same text",
                                                  "another normal form", NULL});
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size) {
    if (size == 0) return 0;
    const char *file = (const char *)input + 1;
    size_t file_bytes = strnlen(file, size - 1), json_bytes = file_bytes;
    const uint8_t *text = input + 1 + file_bytes;
    size_t text_bytes = size - 1 - file_bytes;
    Tokenizer *tokenizer = NULL;
    Error err = {0};
    char *json = NULL;
    bool ok = true;
    if (input[0] % 3 == 2) {
        TokenizerSpec spec = {0};
        ok = tiktoken_file_read(file, file_bytes, SPLIT_LLAMA3, "", &spec, &err);
        if (ok) json = tokenizer_write(&spec, &json_bytes);
        tokenizer_spec_free(&spec);
    } else if (input[0] % 3 == 1) {
        json = around(file, file_bytes, &json_bytes);
    }
    if (ok && tokenizer_from_json(&tokenizer, json ? json : file, json_bytes, &err)) {
        Encoder *encoder = encoder_open(tokenizer);
        TokenList tokens = {0};
        if (encoder_encode(encoder, text, text_bytes, &tokens, &err)) {
            come_back(tokenizer, &tokens, text, text_bytes);
            if (tokens.count > 0) reached(files[input[0] % 3]);
            if (tokenizer->nfc) reached("another normal form");
        } else {
            require(err.exit_code == EXIT_DATA && err.message[0]);
        }
        token_list_free(&tokens);
        encoder_close(encoder);
    } else {
        require(input[0] % 3 == 2 ? !ok && err.exit_code == EXIT_DATA && err.message[0]
                                  : err.exit_code == EXIT_DATA && err.message[0]);
    }
    tokenizer_free(tokenizer);
    free(json);
    return 0;
}
