// A NumPy array of token numbers (.npy), of one dimension, or of two whose rows are documents. The
// header is a literal of a Python dictionary; source: numpy.lib.format, versions 1.0 to 3.0.
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/data/data_content.h"

enum {
    MAGIC_BYTES = 6,
    MOST_HEADER_BYTES = 1 << 16, // numpy.load refuses more than 10,000, unless asked
    MOST_DIMENSIONS = 2,
};

static bool recognise(const DataPlace *place) {
    return place->sample->head_bytes >= MAGIC_BYTES + 2 &&
           memcmp(place->sample->content, "\x93NUMPY", MAGIC_BYTES) == 0;
}

// ---- the header's dictionary --------------------------------------------------------------------

typedef struct Header {
    char descr[16];
    bool has_descr, has_order, has_shape;
    bool fortran_order;
    int dimensions;
    int64_t shape[MOST_DIMENSIONS];
} Header;

static void skip_space(const char **at) {
    while (**at == ' ' || **at == '\t' || **at == '\n') ++*at;
}

static bool take(const char **at, char wanted) {
    skip_space(at);
    if (**at != wanted) return false;
    ++*at;
    return true;
}

// 'text' or "text"
static bool take_text(const char **at, char *text, size_t room) {
    skip_space(at);
    char quote = **at;
    if (quote != '\'' && quote != '"') return false;
    const char *begin = ++*at, *end = strchr(begin, quote);
    if (!end || (size_t)(end - begin) >= room) return false;
    memcpy(text, begin, (size_t)(end - begin));
    text[end - begin] = '\0';
    *at = end + 1;
    return true;
}

static bool take_word(const char **at, const char *word) {
    skip_space(at);
    size_t length = strlen(word);
    if (strncmp(*at, word, length) != 0) return false;
    *at += length;
    return true;
}

static bool take_size(const char **at, int64_t *size) {
    skip_space(at);
    *size = 0;
    if (!isdigit((unsigned char)**at)) return false;
    for (; isdigit((unsigned char)**at); ++*at)
        if (__builtin_mul_overflow(*size, 10, size) ||
            __builtin_add_overflow(*size, **at - '0', size))
            return false;
    return true;
}

// (2000,) or (20, 100). More dimensions are counted, their sizes lost.
static bool take_shape(const char **at, Header *header) {
    if (!take(at, '(')) return false;
    header->dimensions = 0;
    while (!take(at, ')')) {
        int64_t size;
        if (!take_size(at, &size)) return false;
        if (header->dimensions < MOST_DIMENSIONS) header->shape[header->dimensions] = size;
        header->dimensions++;
        if (take(at, ',')) continue;
        if (!take(at, ')')) return false;
        break;
    }
    return true;
}

static bool parse_header(const char *text, Header *header) {
    char key[16];
    *header = (Header){0};
    if (!take(&text, '{')) return false;
    while (!take(&text, '}')) {
        bool ok = take_text(&text, key, sizeof key) && take(&text, ':');
        if (ok && strcmp(key, "descr") == 0 && !header->has_descr) {
            ok = header->has_descr = take_text(&text, header->descr, sizeof header->descr);
        } else if (ok && strcmp(key, "fortran_order") == 0 && !header->has_order) {
            header->fortran_order = take_word(&text, "True");
            ok = header->has_order = header->fortran_order || take_word(&text, "False");
        } else if (ok && strcmp(key, "shape") == 0 && !header->has_shape) {
            ok = header->has_shape = take_shape(&text, header);
        } else {
            ok = false;
        }
        if (!ok) return false;
        if (!take(&text, ',') && !(skip_space(&text), *text == '}')) return false;
    }
    skip_space(&text);
    return !*text && header->has_descr && header->has_order && header->has_shape;
}

// ---- what it says -------------------------------------------------------------------------------

// '<u2', '|u1'
static bool read_type(const char *descr, TokenType *type) {
    bool known = strlen(descr) == 3 && strchr("<|=", descr[0]) && strchr("iu", descr[1]) &&
                 strchr("1248", descr[2]) && (descr[0] != '|' || descr[2] == '1');
    *type = (TokenType){descr[2] - '0', descr[1] == 'i'};
    return known;
}

static bool check_type(const DataPlace *place, const Header *header, TokenType *type, Error *err) {
    if (read_type(header->descr, type)) return true;
    bool big = header->descr[0] == '>' && strchr("iu", header->descr[1]);
    return error_set(err, EXIT_DATA,
                     "%s: a NumPy array of '%s', but token numbers are little-endian integers of "
                     "1, 2, 4 or 8 bytes; %s: python3 -c \"import numpy as np; np.save('NEW.npy', "
                     "np.load('FILE').astype('<u4'))\"",
                     place->path, header->descr, big ? "convert it" : "if it holds whole numbers");
}

static bool fit_shape(const DataPlace *place, const Header *header, int64_t begin,
                      DataContent *content, Error *err) {
    if (header->dimensions < 1 || header->dimensions > MOST_DIMENSIONS)
        return error_set(err, EXIT_DATA,
                         "%s: a NumPy array of %d dimensions, but token numbers have one, or two "
                         "whose rows are documents; save it with .reshape(-1)",
                         place->path, header->dimensions);
    if (header->dimensions == 2 && header->fortran_order && header->shape[0] > 1 &&
        header->shape[1] > 1)
        return error_set(err, EXIT_DATA,
                         "%s: a NumPy array in Fortran's order, column by column; save it row by "
                         "row: python3 -c \"import numpy as np; np.save('NEW.npy', "
                         "np.ascontiguousarray(np.load('FILE')))\"",
                         place->path);
    char shape[64];
    bool rows = header->dimensions == 2;
    snprintf(shape, sizeof shape, rows ? "%lld x %lld" : "%lld", (long long)header->shape[0],
             (long long)header->shape[1]);
    int64_t count = header->shape[0], bytes = 0, present = place->file->bytes - begin;
    bool fits = !rows || !__builtin_mul_overflow(count, header->shape[1], &count);
    fits = fits && !__builtin_mul_overflow(count, content->type.bytes, &bytes) && bytes == present;
    if (!fits)
        return error_set(
            err, EXIT_DATA,
            "%s: its header says %s numbers of %d bytes, but %lld bytes follow it; the "
            "file is cut off or was joined with another: write it again",
            place->path, shape, content->type.bytes, (long long)present);
    if (count == 0)
        return error_set(err, EXIT_DATA,
                         "%s: a NumPy array without numbers; prepare the data again", place->path);
    content->begin = begin;
    content->tokens = count;
    if (rows)
        content->documents =
            (DocumentStarts){.count = header->shape[0], .length = header->shape[1]};
    return true;
}

static bool open_array(DataContent *content, const DataPlace *place, Error *err) {
    uint8_t start[MAGIC_BYTES + 6] = {0};
    size_t head =
        place->file->bytes < (int64_t)sizeof start ? (size_t)place->file->bytes : sizeof start;
    if (!file_reader_read(place->file, 0, head, start, err)) return false;
    int version = start[MAGIC_BYTES], length_bytes = version == 1 ? 2 : 4;
    if (version < 1 || version > 3)
        return error_set(err, EXIT_DATA,
                         "%s: a NumPy array of version %d.%d, but 1.0 to 3.0 are known; save it "
                         "with a NumPy of today",
                         place->path, version, start[MAGIC_BYTES + 1]);
    int64_t length = (int64_t)little_endian(start + MAGIC_BYTES + 2, length_bytes);
    int64_t begin = MAGIC_BYTES + 2 + length_bytes;
    if (length > MOST_HEADER_BYTES || length > place->file->bytes - begin)
        return error_set(err, EXIT_DATA,
                         "%s: its header says that it has %lld bytes, but %lld follow, and at most "
                         "%d make sense; the file is cut off or damaged: write it again",
                         place->path, (long long)length, (long long)(place->file->bytes - begin),
                         (int)MOST_HEADER_BYTES);
    char *text = calloc((size_t)length + 1, 1);
    CHECK_MEMORY(text, "no memory for a header of %lld bytes", (long long)length);
    Header header;
    bool ok = file_reader_read(place->file, begin, (size_t)length, text, err);
    if (ok && (strlen(text) != (size_t)length || !parse_header(text, &header)))
        ok = error_set(err, EXIT_DATA,
                       "%s: its header is '%.60s', not one of a NumPy array of numbers; write it "
                       "again with numpy.save",
                       place->path, text);
    free(text);
    return ok && check_type(place, &header, &content->type, err) &&
           fit_shape(place, &header, begin + length, content, err);
}

const FileFormat NUMPY_ARRAY = {
    .name = "a NumPy array (.npy)",
    .kind = CONTENT_NUMBERS,
    .recognise = recognise,
    .open = open_array,
};
