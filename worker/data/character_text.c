#include "worker/data/character_text.h"

#include <stdio.h>
#include <stdlib.h>

#include "kernels/utf8.h"

enum { TEXT_PIECE_BYTES = 1 << 17 };

// ---- the file, character by character -----------------------------------------------------------

typedef struct Character {
    int32_t code_point;
    const uint8_t *bytes;
    int length;
    int64_t offset;
} Character;

typedef bool (*TakeCharacter)(void *context, const Character *character, Error *err);

static bool read_characters(const FileReader *file, TakeCharacter take, void *context, Error *err) {
    int64_t most = file->bytes < TEXT_PIECE_BYTES ? file->bytes : TEXT_PIECE_BYTES;
    uint8_t *piece = malloc((size_t)most + 1);
    CHECK_MEMORY(piece, "no memory for %d bytes", TEXT_PIECE_BYTES);
    bool ok = true;
    for (int64_t start = 0; ok && start < file->bytes;) {
        int64_t rest = file->bytes - start;
        int64_t bytes = rest < most ? rest : most, at = 0;
        ok = file_reader_read(file, start, (size_t)bytes, piece, err);
        while (ok && at < bytes) {
            Character c = {.bytes = piece + at, .offset = start + at};
            c.length = utf8_decode(c.bytes, (size_t)(bytes - at), &c.code_point);
            if (c.length == 0 && bytes - at < 4 && bytes < rest) break; // goes on in the next piece
            ok = c.length > 0
                     ? take(context, &c, err)
                     : error_set(err, EXIT_DATA,
                                 "%s: byte %lld (0x%02X) does not continue valid UTF-8; "
                                 "convert the file (iconv -f WINDOWS-1252 -t UTF-8, if it is "
                                 "Western text) or set data.format: bytes",
                                 file->path, (long long)c.offset, c.bytes[0]);
            at += c.length;
        }
        start += at;
    }
    free(piece);
    return ok;
}

// ---- tokens of 1, 2 or 4 bytes ------------------------------------------------------------------

int32_t character_text_token(const CharacterText *text, int64_t position) {
    switch (text->width) {
    case 1:
        return ((const uint8_t *)text->tokens)[position];
    case 2:
        return ((const uint16_t *)text->tokens)[position];
    default:
        return ((const int32_t *)text->tokens)[position];
    }
}

static void set_token(CharacterText *text, int64_t position, int32_t token) {
    if (text->width == 1)
        ((uint8_t *)text->tokens)[position] = (uint8_t)token;
    else if (text->width == 2)
        ((uint16_t *)text->tokens)[position] = (uint16_t)token;
    else
        ((int32_t *)text->tokens)[position] = token;
}

static int width_of(int64_t size) {
    return size <= 1 << 8 ? 1 : size <= 1 << 16 ? 2 : 4;
}

// Room for a token a byte of the file: only what is used is ever touched, and the rest given back
// in the end.
static bool set_width(CharacterText *text, int width, Error *err) {
    void *wider = realloc(text->tokens, (size_t)text->bytes * (size_t)width);
    if (!wider)
        return error_set(err, EXIT_IO, "%s: no memory for its %lld characters", text->path,
                         (long long)text->bytes);
    CharacterText narrow = *text;
    narrow.tokens = text->tokens = wider;
    text->width = width;
    for (int64_t i = text->count - 1; i >= 0; i--) // from the end: what is read is not overwritten
        set_token(text, i, character_text_token(&narrow, i));
    return true;
}

static void give_back_the_rest(CharacterText *text) {
    size_t bytes = (size_t)(text->count > 0 ? text->count : 1) * (size_t)text->width;
    void *fitting = realloc(text->tokens, bytes);
    if (fitting) text->tokens = fitting;
}

static CharacterText begin_text(const FileReader *file) {
    CharacterText text = {.bytes = file->bytes, .width = 1};
    snprintf(text.path, sizeof text.path, "%s", file->path);
    return text;
}

void character_text_free(CharacterText *text) {
    free(text->tokens);
    *text = (CharacterText){0};
}

// ---- a text that makes its own vocabulary -------------------------------------------------------

enum { ROW = 256, ROWS = CODE_POINTS / ROW };

typedef struct Collection {
    CharacterText text;  // tokens are numbers in the order in which the code points turned up
    int32_t *rows[ROWS]; // (ROW) number + 1, 0: not seen; NULL: a text touches few rows
    int32_t count;
} Collection;

static int32_t *number_of(Collection *collection, int32_t code_point) {
    int32_t **row = &collection->rows[code_point / ROW];
    if (!*row) {
        *row = calloc(ROW, sizeof **row);
        CHECK_MEMORY(*row, "no memory for %d code points", ROW);
    }
    return &(*row)[code_point % ROW];
}

static bool collect_character(void *context, const Character *c, Error *err) {
    Collection *collection = context;
    CharacterText *text = &collection->text;
    int32_t *number = number_of(collection, c->code_point);
    if (*number == 0) {
        *number = ++collection->count;
        int width = width_of(collection->count);
        if (width != text->width && !set_width(text, width, err)) return false;
    }
    set_token(text, text->count++, *number - 1);
    return true;
}

// From the order of turning up to ascending code points, which are returned.
static int32_t *sort_tokens(const Collection *collection, CharacterText *text) {
    size_t count = (size_t)collection->count;
    int32_t *sorted = malloc(count * sizeof *sorted), *place = malloc(count * sizeof *place);
    CHECK_MEMORY(sorted && place, "no memory for %zu code points", count);
    int32_t next = 0;
    for (int32_t row = 0; row < ROWS; row++)
        for (int32_t i = 0; collection->rows[row] && i < ROW; i++) {
            int32_t number = collection->rows[row][i];
            if (number == 0) continue;
            place[number - 1] = next;
            sorted[next++] = row * ROW + i;
        }
    for (int64_t i = 0; i < text->count; i++)
        set_token(text, i, place[character_text_token(text, i)]);
    free(place);
    return sorted;
}

bool character_text_collect(CharacterText *text, const FileReader *file, int32_t **code_points,
                            int64_t *size, Error *err) {
    Collection collection = {.text = begin_text(file)};
    bool ok = set_width(&collection.text, 1, err) &&
              read_characters(file, collect_character, &collection, err);
    if (ok) {
        *text = collection.text;
        *code_points = sort_tokens(&collection, text);
        *size = collection.count;
        give_back_the_rest(text);
    } else {
        character_text_free(&collection.text);
    }
    for (int row = 0; row < ROWS; row++) free(collection.rows[row]);
    return ok;
}

// ---- a text of a known vocabulary ---------------------------------------------------------------

int32_t code_point_find(const int32_t *code_points, int64_t size, int32_t code_point) {
    int64_t low = 0, high = size; // the answer, if any, is in [low, high)
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (code_points[middle] == code_point) return (int32_t)middle;
        if (code_points[middle] < code_point)
            low = middle + 1;
        else
            high = middle;
    }
    return -1;
}

typedef struct Encoding {
    CharacterText text;
    const int32_t *code_points;
    int64_t size;
} Encoding;

static bool encode_character(void *context, const Character *c, Error *err) {
    Encoding *encoding = context;
    int32_t token = code_point_find(encoding->code_points, encoding->size, c->code_point);
    if (token < 0)
        return error_set(err, EXIT_DATA,
                         "%s: character '%.*s' (U+%04X) at byte %lld does not occur in the "
                         "training text; remove it or set data.format: bytes",
                         encoding->text.path, c->length, (const char *)c->bytes,
                         (unsigned)c->code_point, (long long)c->offset);
    set_token(&encoding->text, encoding->text.count++, token);
    return true;
}

bool character_text_read(CharacterText *text, const FileReader *file, const int32_t *code_points,
                         int64_t size, Error *err) {
    Encoding encoding = {.text = begin_text(file), .code_points = code_points, .size = size};
    bool ok = set_width(&encoding.text, width_of(size), err) &&
              read_characters(file, encode_character, &encoding, err);
    if (ok) {
        give_back_the_rest(&encoding.text);
        *text = encoding.text;
    } else {
        character_text_free(&encoding.text);
    }
    return ok;
}
