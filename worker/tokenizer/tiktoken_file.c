#include "worker/tokenizer/tiktoken_file.h"

#include <stdlib.h>
#include <string.h>

#include "worker/tokenizer/bpe.h"
#include "worker/tokenizer/byte_level.h"

enum { MOST_TOKEN_BYTES = 1 << 10 };

static int base64_digit(char c) { // or -1
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

// False when the text is not whole groups of four digits, the last one filled up with '='.
static bool base64_read(const char *text, size_t count, uint8_t *bytes, size_t *read) {
    size_t fill = 0;
    while (fill < 2 && fill < count && text[count - 1 - fill] == '=') fill++;
    if (count == 0 || count % 4 != 0) return false;
    uint32_t group = 0;
    size_t n = 0;
    for (size_t i = 0; i < count; i++) {
        int digit = i < count - fill ? base64_digit(text[i]) : 0;
        if (digit < 0) return false;
        group = group << 6 | (uint32_t)digit;
        if (i % 4 != 3) continue;
        for (int shift = 16; shift >= 0; shift -= 8) bytes[n++] = (uint8_t)(group >> shift);
        group = 0;
    }
    *read = n - fill;
    return *read > 0;
}

// ---- lines --------------------------------------------------------------------------------------

typedef struct Line {
    uint8_t bytes[MOST_TOKEN_BYTES];
    size_t count;
    int64_t rank;
} Line;

static bool read_line(const char *text, size_t count, Line *line) {
    const char *space = memchr(text, ' ', count);
    if (!space || space - text > MOST_TOKEN_BYTES / 3 * 4) return false;
    if (!base64_read(text, (size_t)(space - text), line->bytes, &line->count)) return false;
    const char *end = text + count;
    line->rank = 0;
    if (++space == end) return false;
    for (; space < end; space++) {
        if (*space < '0' || *space > '9' || line->rank >= MOST_TOKEN_IDS) return false;
        line->rank = line->rank * 10 + (*space - '0');
    }
    return line->rank < MOST_TOKEN_IDS;
}

// Tokens as bytes, their ranks 0, 1, 2 …
static bool read_ranks(const char *text, size_t bytes, ByteStrings *tokens, Error *err) {
    int64_t number = 0;
    Line line;
    for (const char *at = text, *end = text + bytes; at < end;) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        size_t count = (size_t)((stop ? stop : end) - at);
        number++;
        if (count > 0 && at[count - 1] == '\r') count--;
        bool is_new = false;
        if (count > 0 && read_line(at, count, &line)) {
            if (line.rank != tokens->count)
                return error_set(err, EXIT_DATA,
                                 "line %lld: rank %lld where %d is next; ranks go up by one, the "
                                 "file is damaged",
                                 (long long)number, (long long)line.rank, (int)tokens->count);
            byte_strings_add(tokens, line.bytes, line.count, &is_new);
        }
        if (count > 0 && !is_new)
            return error_set(err, EXIT_DATA,
                             "line %lld: '%.*s' is no new token and rank; a tokenizer is a "
                             "tokenizer.json, or a file of tiktoken with lines of base64 and a "
                             "number",
                             (long long)number, (int)(count < 60 ? count : 60), at);
        at = stop ? stop + 1 : end;
    }
    for (int byte = 0; byte < 256; byte++) {
        uint8_t one = (uint8_t)byte;
        if (byte_strings_find(tokens, &one, 1) < 0)
            return error_set(err, EXIT_DATA, "no token for byte 0x%02X; the file is damaged", byte);
    }
    return true;
}

// ---- merges -------------------------------------------------------------------------------------

static int compare_pairs(const void *a, const void *b) {
    const TokenPair *x = a, *y = b;
    if (x->left != y->left) return x->left < y->left ? -1 : 1;
    return (x->right > y->right) - (x->right < y->right);
}

static void find_merges(const ByteStrings *tokens, TokenizerSpec *spec) {
    int64_t room = 0;
    for (int32_t id = 0; id < tokens->count; id++) {
        size_t count;
        const uint8_t *bytes = byte_strings_get(tokens, id, &count);
        int64_t first = spec->merge_count;
        for (size_t cut = 1; cut < count; cut++) {
            TokenPair pair = {byte_strings_find(tokens, bytes, cut),
                              byte_strings_find(tokens, bytes + cut, count - cut)};
            if (pair.left < 0 || pair.right < 0) continue;
            if (spec->merge_count == room) {
                room = room ? room * 2 : 1024;
                spec->merges = realloc(spec->merges, (size_t)room * sizeof *spec->merges);
                CHECK_MEMORY(spec->merges, "no memory for %lld merges", (long long)room);
            }
            spec->merges[spec->merge_count++] = pair;
        }
        if (spec->merge_count > first)
            qsort(spec->merges + first, (size_t)(spec->merge_count - first), sizeof *spec->merges,
                  compare_pairs);
    }
}

bool tiktoken_file_read(const char *text, size_t bytes, SplitKind split, const char *special,
                        TokenizerSpec *spec, Error *err) {
    ByteStrings tokens = {0};
    TokenizerSpec s = {.split = split, .whole_words = true};
    bool ok = read_ranks(text, bytes, &tokens, err);
    for (int32_t id = 0; ok && id < tokens.count; id++) {
        size_t count;
        const uint8_t *token = byte_strings_get(&tokens, id, &count);
        char written[2 * MOST_TOKEN_BYTES];
        byte_strings_add(&s.tokens, written, byte_level_write(token, count, written), NULL);
    }
    if (ok) find_merges(&tokens, &s);
    ok = ok && tokenizer_spec_add_special(&s, special, err);
    byte_strings_free(&tokens);
    if (ok)
        *spec = s;
    else
        tokenizer_spec_free(&s);
    return ok;
}
