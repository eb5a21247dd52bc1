#include "worker/tokenizer/token_file.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checkpoint/file_io.h"

enum { PIECE_BYTES = 1 << 20, HELD_TOKENS = 1 << 18 };

int token_file_width(const Tokenizer *tokenizer) {
    return tokenizer->size <= 1 << 16 ? 2 : 4;
}

// ---- pieces of a text ---------------------------------------------------------------------------

// Whether a text may be cut before a letter that begins a line behind a line of text: no word, no
// normal form and no added token then depends on what is on the other side.
static bool may_be_cut(const Tokenizer *tokenizer) {
    if (!tokenizer->known_pattern || tokenizer->add_prefix_space) return false;
    for (int32_t i = 0; i < tokenizer->added.count; i++) {
        const AddedToken *row = &tokenizer->added.rows[i];
        if (!row->hidden && (row->strips_left || memchr(row->content, '\n', row->bytes)))
            return false;
    }
    return true;
}

// The last place from `first` on to cut a piece at, or 0.
static size_t find_cut(const uint8_t *text, size_t first, size_t bytes) {
    for (size_t i = bytes; i-- > first && i >= 2;)
        if (text[i - 1] == '\n' && isascii(text[i]) && isalpha(text[i]) && isascii(text[i - 2]) &&
            isgraph(text[i - 2]))
            return i;
    return 0;
}

// A text on its way through an encoder.
typedef struct Encoding {
    const FileReader *text;
    Encoder *encoder;
    bool cut;
    uint8_t *piece;
    size_t room;
    TokenList tokens;
    int64_t count; // of tokens so far
    TokensFunction *take;
    void *context;
} Encoding;

static bool give_tokens(Encoding *e, Error *err) {
    int64_t count = e->tokens.count;
    e->count += count;
    e->tokens.count = 0;
    return count == 0 || e->take(e->context, e->tokens.ids, count, err);
}

// Bytes [at, last), as a text of their own.
static bool encode_range(Encoding *e, int64_t at, int64_t last, Error *err) {
    size_t used = 0;
    bool ok = true;
    while (ok && (at < last || used > 0)) {
        int64_t rest = last - at;
        bool pieces = e->cut || e->text->taken; // how long a stream is nobody knows
        size_t wanted = pieces && rest > PIECE_BYTES ? PIECE_BYTES : (size_t)rest;
        if (e->room - used < wanted) {
            e->room = used + wanted;
            e->piece = realloc(e->piece, e->room);
            CHECK_MEMORY(e->piece, "no memory for %zu bytes of %s", e->room, e->text->path);
        }
        int64_t got = file_reader_read_some(e->text, at, wanted, e->piece + used, err);
        if (got < 0) return false;
        at += got;
        if (got < (int64_t)wanted) last = at;
        size_t before = used, end = used += (size_t)got;
        if (at < last) end = e->cut ? find_cut(e->piece, before, used) : 0;
        if (end == 0) continue; // no place to cut at: the next comes to it
        ok = encoder_encode(e->encoder, e->piece, end, &e->tokens, err) ||
             error_prefix(err, "%s", e->text->path);
        if (ok && e->tokens.count >= HELD_TOKENS) ok = give_tokens(e, err);
        used -= end;
        memmove(e->piece, e->piece + end, used);
    }
    return ok;
}

bool tokens_of_text(const Tokenizer *tokenizer, const FileReader *text, DocumentStarts *documents,
                    TokensFunction *take, void *context, Error *err) {
    Encoding e = {.text = text,
                  .encoder = encoder_open(tokenizer),
                  .cut = may_be_cut(tokenizer),
                  .take = take,
                  .context = context};
    bool ok = true;
    if (documents && documents->starts) {
        for (int64_t i = 0; ok && i < documents->count; i++) {
            int64_t first = documents->starts[i];
            int64_t last = i + 1 < documents->count ? documents->starts[i + 1] : text->bytes;
            documents->starts[i] = e.count + e.tokens.count;
            ok = encode_range(&e, first, last, err);
        }
    } else {
        ok = encode_range(&e, 0, text->bytes, err);
    }
    ok = ok && give_tokens(&e, err);
    free(e.piece);
    token_list_free(&e.tokens);
    encoder_close(e.encoder);
    return ok;
}

// ---- writing ------------------------------------------------------------------------------------

typedef struct Writing {
    const char *path; // for messages
    int fd, width;
    int64_t tokens;
    uint16_t *narrow; // tokens of two bytes
    int64_t room;
    void (*progress)(void);
} Writing;

static bool write_tokens(void *context, const int32_t *tokens, int64_t count, Error *err) {
    Writing *writing = context;
    const void *bytes = tokens;
    if (writing->width == 2) {
        if (count > writing->room) {
            writing->narrow = realloc(writing->narrow, (size_t)count * sizeof *writing->narrow);
            CHECK_MEMORY(writing->narrow, "no memory for %lld tokens", (long long)count);
            writing->room = count;
        }
        for (int64_t i = 0; i < count; i++) writing->narrow[i] = (uint16_t)tokens[i];
        bytes = writing->narrow;
    }
    writing->tokens += count;
    if (writing->progress) writing->progress();
    return file_write(writing->fd, bytes, (size_t)count * (size_t)writing->width, NULL, err) ||
           error_prefix(err, "%s", writing->path);
}

bool token_file_give(const Tokenizer *tokenizer, const FileReader *text, DocumentStarts *documents,
                     int fd, int64_t *tokens, Error *err) {
    Writing writing = {.path = "standard output", .fd = fd, .width = token_file_width(tokenizer)};
    bool ok = tokens_of_text(tokenizer, text, documents, write_tokens, &writing, err);
    free(writing.narrow);
    *tokens = writing.tokens;
    return ok;
}

bool token_file_write(const Tokenizer *tokenizer, const FileReader *text, DocumentStarts *documents,
                      const char *path, void (*progress)(void), int64_t *tokens, Error *err) {
    char temporary[PATH_MAX];
    Error ignored;
    if (snprintf(temporary, sizeof temporary, "%s.%ld.tmp", path, (long)getpid()) >= PATH_MAX)
        return error_set(err, EXIT_IO, "path too long: %.60s...", path);
    file_remove(temporary, &ignored);
    Writing writing = {.path = path,
                       .fd = file_open(temporary, O_WRONLY | O_CREAT, err),
                       .width = token_file_width(tokenizer),
                       .progress = progress};
    if (writing.fd < 0) return false;
    bool ok = tokens_of_text(tokenizer, text, documents, write_tokens, &writing, err);
    if (ok) ok = file_sync(writing.fd, err) || error_prefix(err, "%s", temporary);
    if (close(writing.fd) != 0 && ok)
        ok = error_set(err, EXIT_IO, "%s: cannot write: %s", temporary, strerror(errno));
    ok = ok && file_rename(temporary, path, err);
    if (!ok) file_remove(temporary, &ignored);
    free(writing.narrow);
    *tokens = writing.tokens;
    return ok;
}

// ---- back to text -------------------------------------------------------------------------------

static bool check_whole(const Tokenizer *tokenizer, const FileReader *tokens, int64_t bytes,
                        Error *err) {
    int width = token_file_width(tokenizer);
    return bytes % width == 0 ||
           error_set(err, EXIT_DATA,
                     "%s: %lld bytes are not whole tokens of %d bytes, as %lld different ones "
                     "need; name the tokenizer that wrote the file",
                     tokens->path, (long long)bytes, width, (long long)tokenizer->size);
}

bool token_file_decode(const Tokenizer *tokenizer, const FileReader *tokens, FILE *out,
                       Error *err) {
    enum { PIECE_TOKENS = 1 << 14 };
    uint32_t raw[PIECE_TOKENS];
    int64_t width = token_file_width(tokenizer), piece = PIECE_TOKENS * width, got = piece;
    if (!tokens->taken && !check_whole(tokenizer, tokens, tokens->bytes, err)) return false;
    for (int64_t at = 0; got == piece; at += got) {
        got = file_reader_read_some(tokens, at, (size_t)piece, raw, err);
        if (got < 0) return false;
        for (int64_t i = 0; i < got / width; i++) {
            uint32_t token = width == 2 ? ((const uint16_t *)raw)[i] : raw[i];
            size_t bytes;
            if (token >= tokenizer->size)
                return error_set(err, EXIT_DATA,
                                 "%s: token %u at byte %lld is outside the tokenizer's %lld; name "
                                 "the tokenizer that wrote the file",
                                 tokens->path, token, (long long)(at + i * width),
                                 (long long)tokenizer->size);
            const uint8_t *text = tokenizer_decode(tokenizer, (int32_t)token, &bytes);
            if (fwrite(text, 1, bytes, out) != bytes)
                return error_set(err, EXIT_IO, "cannot write the text: %s", strerror(errno));
        }
        if (!check_whole(tokenizer, tokens, at + got, err)) return false; // the end of a stream
    }
    return true;
}
