#include "worker/data/data_info.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "kernels/utf8.h"
#include "worker/data/best_fit.h"
#include "worker/data/data_content.h"
#include "worker/data/tokenized_text.h"

enum { PIECE_BYTES = 1 << 17, FIRST_TOKENS = 16, FIRST_BYTES = 200, CHARACTERS = 0x110000 };

// ---- token numbers ------------------------------------------------------------------------------

typedef struct NumberFacts {
    int64_t smallest, largest;
    int64_t first[FIRST_TOKENS];
} NumberFacts;

static bool read_numbers(const DataContent *content, NumberFacts *facts, Error *err) {
    void *raw = malloc(PIECE_BYTES);
    CHECK_MEMORY(raw, "no memory for %d bytes", PIECE_BYTES);
    int64_t width = content->type.bytes, room = PIECE_BYTES / width;
    *facts = (NumberFacts){.smallest = INT64_MAX, .largest = INT64_MIN};
    bool ok = true;
    for (int64_t at = 0; ok && at < content->tokens; at += room) {
        int64_t n = content->tokens - at < room ? content->tokens - at : room;
        ok = file_reader_read(&content->file, content->begin + at * width, (size_t)(n * width), raw,
                              err);
        for (int64_t i = 0; ok && i < n; i++) {
            int64_t token = token_type_read(content->type, raw, i);
            if (at + i < FIRST_TOKENS) facts->first[at + i] = token;
            if (token < facts->smallest) facts->smallest = token;
            if (token > facts->largest) facts->largest = token;
        }
    }
    free(raw);
    return ok;
}

// What the first tokens say in the tokenizer's words.
static void print_decoded(const NumberFacts *facts, int count, const Tokenizer *tokenizer) {
    char text[FIRST_BYTES + 1] = "", shown[4 * FIRST_BYTES];
    size_t used = 0;
    for (int i = 0; i < count; i++) {
        size_t bytes = 0;
        int64_t token = facts->first[i];
        if (token < 0 || token >= tokenizer->size) continue;
        const void *piece = tokenizer_decode(tokenizer, (int32_t)token, &bytes);
        if (used + bytes > FIRST_BYTES) break;
        memcpy(text + used, piece, bytes);
        used += bytes;
    }
    utf8_make_printable(text, shown, sizeof shown);
    printf("             %s\n", shown);
    if (facts->largest >= tokenizer->size)
        printf("             of another tokenizer: this one has %lld tokens\n",
               (long long)tokenizer->size);
}

static bool print_numbers(const DataContent *content, const Tokenizer *tokenizer, Error *err) {
    NumberFacts facts;
    if (!read_numbers(content, &facts, err)) return false;
    long long tokens = content->tokens;
    printf("numbers      %s, little-endian, from byte %lld\n", token_type_name(content->type),
           (long long)content->begin);
    printf("tokens       %lld\n", tokens);
    if (facts.smallest < 0)
        printf("vocabulary   none: the smallest token is %lld; take such marks out\n",
               (long long)facts.smallest);
    else
        printf("vocabulary   largest token %lld: data.vocab_size is at least %lld\n",
               (long long)facts.largest, (long long)facts.largest + 1);
    printf("bytes/token  %d in the file; of text data.bytes_per_token says it\n",
           content->type.bytes);
    printf("first        ");
    for (int i = 0; i < FIRST_TOKENS && i < tokens; i++) printf("%lld ", (long long)facts.first[i]);
    printf("%s\n", tokens > FIRST_TOKENS ? "…" : "");
    if (tokenizer)
        print_decoded(&facts, tokens < FIRST_TOKENS ? (int)tokens : FIRST_TOKENS, tokenizer);
    return true;
}

// ---- text ---------------------------------------------------------------------------------------

typedef struct TextFacts {
    int64_t characters; // -1: not UTF-8
    int64_t not_utf8;   // the byte that ends it
    int distinct;
    uint8_t *seen; // (CHARACTERS)
    uint8_t first[FIRST_BYTES + 1];
} TextFacts;

// Takes the characters of a piece and returns how many of its bytes they are.
static size_t take_characters(TextFacts *facts, const uint8_t *piece, size_t bytes, bool last) {
    size_t at = 0;
    while (at < bytes) {
        int32_t code;
        int length = utf8_decode(piece + at, bytes - at, &code);
        if (length == 0 && bytes - at < 4 && !last) return at; // goes on in the next piece
        if (length == 0) break;
        facts->characters++;
        facts->distinct += !facts->seen[code];
        facts->seen[code] = 1;
        at += (size_t)length;
    }
    return at;
}

static bool read_text(const FileReader *file, TextFacts *facts, Error *err) {
    uint8_t *piece = malloc(PIECE_BYTES);
    CHECK_MEMORY(piece, "no memory for %d bytes", PIECE_BYTES);
    size_t first = file->bytes < FIRST_BYTES ? (size_t)file->bytes : FIRST_BYTES;
    bool ok = file_reader_read(file, 0, first, facts->first, err);
    for (int64_t at = 0; ok && at < file->bytes;) {
        int64_t left = file->bytes - at;
        size_t bytes = left < PIECE_BYTES ? (size_t)left : PIECE_BYTES;
        bool last = (int64_t)bytes == left;
        ok = file_reader_read(file, at, bytes, piece, err);
        if (!ok) break;
        size_t taken = take_characters(facts, piece, bytes, last);
        at += (int64_t)taken;
        if (taken == bytes || (!last && bytes - taken < 4)) continue;
        facts->characters = -1;
        facts->not_utf8 = at;
        break;
    }
    free(piece);
    return ok;
}

static bool print_tokenized(const FileReader *file, const Tokenizer *tokenizer, Error *err) {
    CharacterText tokens = {0};
    if (!tokenized_text_read(&tokens, file, NULL, tokenizer, err)) return false;
    printf("             %lld as tokens of a vocabulary of %lld, %.3f bytes a token\n",
           (long long)tokens.count, (long long)tokenizer->size,
           (double)file->bytes / (double)tokens.count);
    character_text_free(&tokens);
    return true;
}

static bool print_text(const DataContent *content, const Tokenizer *tokenizer, Error *err) {
    TextFacts facts = {.seen = calloc(CHARACTERS, 1)};
    CHECK_MEMORY(facts.seen, "no memory for %d characters", CHARACTERS);
    int64_t bytes = content->file.bytes;
    bool ok = read_text(&content->file, &facts, err);
    free(facts.seen);
    if (!ok) return false;
    char first[4 * FIRST_BYTES];
    printf("text         %lld bytes\n", (long long)bytes);
    printf("tokens       %lld as bytes, of a vocabulary of 256\n", (long long)bytes);
    if (facts.characters < 0)
        printf("             not as characters: byte %lld does not continue valid UTF-8\n",
               (long long)facts.not_utf8);
    else
        printf("             %lld as characters, of a vocabulary of %d, %.3f bytes a token\n",
               (long long)facts.characters, facts.distinct,
               (double)bytes / (double)facts.characters);
    if (tokenizer && !print_tokenized(&content->file, tokenizer, err)) return false;
    utf8_make_printable((const char *)facts.first, first, sizeof first);
    printf("first        %s%s\n", first, bytes > FIRST_BYTES ? "…" : "");
    return true;
}

// The padding of data.packing: best_fit at some contexts.
static void print_packing(const DocumentStarts *documents, int64_t tokens, const char *unit) {
    static const int64_t contexts[] = {512, 2048, 8192};
    printf("packing      best_fit has ");
    for (size_t i = 0; i < sizeof contexts / sizeof *contexts; i++) {
        Packing packing;
        packing_make(&packing, documents, tokens, contexts[i]);
        printf("%s%.2f%%%s %lld", i == 0 ? "" : ", ", 100 * packing_padding(&packing),
               i == 0 ? " padding at a train.context of" : " at", (long long)contexts[i]);
        packing_free(&packing);
    }
    printf(" %s\n", unit);
}

static void print_documents(const DataContent *content) {
    const DocumentStarts *documents = &content->documents;
    bool numbers = content->type.bytes > 0;
    if (documents->count == 0) {
        printf("documents    unknown: data.document_end says what ends one\n");
        return;
    }
    printf("documents    %lld\n", (long long)documents->count);
    print_packing(documents, numbers ? content->tokens : content->file.bytes,
                  numbers ? "tokens" : "bytes");
}

// ---- the front ----------------------------------------------------------------------------------

static bool print_part(const DataConfig *config, const char *path, DataPart part,
                       const Tokenizer *tokenizer, Error *err) {
    DataContent content = {0};
    ContentRules rules = content_rules(config);
    rules.format = config->format;
    rules.recognise = config->format != DATA_BYTES;
    rules.part = part;
    rules.documents = true;
    if (!data_content_open(&content, path, &rules, err)) return false;
    printf("file         %s\n", content.file.path);
    printf("format       %s\n", content.format->name);
    bool ok = data_content_find_marks(&content, err);
    if (ok) print_documents(&content);
    if (ok)
        ok = content.type.bytes > 0 ? print_numbers(&content, tokenizer, err)
                                    : print_text(&content, tokenizer, err);
    data_content_close(&content);
    return ok;
}

int data_info_run(const DataConfig *config, const char *path, Error *err) {
    struct stat status;
    bool folder = stat(path, &status) == 0 && S_ISDIR(status.st_mode);
    Tokenizer *tokenizer = NULL;
    if (config->tokenizer[0] && !tokenizer_read(&tokenizer, config->tokenizer, NULL, err))
        return err->exit_code;
    bool ok = print_part(config, path, PART_TRAINING, tokenizer, err);
    if (ok && folder) {
        printf("\n");
        ok = print_part(config, path, PART_VALIDATION, tokenizer, err);
    }
    tokenizer_free(tokenizer);
    return ok ? EXIT_DONE : err->exit_code;
}
