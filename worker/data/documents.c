#include "worker/data/documents.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const Choice RULES[] = {
    [DOCUMENTS_IGNORE] = {"ignore",
                          "a window is one text, whatever it holds (GPT-3, arXiv:2005.14165)"},
    [DOCUMENTS_MASK] = {"mask",
                        "attention stays inside a document, positions begin anew with it, and its "
                        "last token has no target (Llama 3, arXiv:2407.21783)"},
};
const ChoiceTable DOCUMENT_CHOICES = CHOICE_TABLE(RULES);

static const Choice PACKINGS[] = {
    [PACKING_CONCATENATE] = {"concatenate", "one behind the other, cut every train.context tokens"},
    [PACKING_BEST_FIT] = {"best_fit",
                          "whole where they fit, each into the least room, with padding behind "
                          "(arXiv:2404.10830)"},
};
const ChoiceTable PACKING_CHOICES = CHOICE_TABLE(PACKINGS);

enum { FIRST_STARTS = 1 << 10, PIECE_BYTES = 1 << 17 };

void documents_free(DocumentStarts *documents) {
    free(documents->starts);
    *documents = (DocumentStarts){0};
}

void documents_add(DocumentStarts *documents, int64_t start, int64_t *room) {
    if (documents->count == *room) {
        *room = *room ? 2 * *room : FIRST_STARTS;
        documents->starts = realloc(documents->starts, (size_t)*room * sizeof *documents->starts);
        CHECK_MEMORY(documents->starts, "no memory for %lld documents", (long long)*room);
    }
    documents->starts[documents->count++] = start;
}

// ---- what ends them -----------------------------------------------------------------------------

int document_end_text(const char *key, char text[CONFIG_LABEL_BYTES]) {
    static const char letters[] = "ntr\\", meant[] = "\n\t\r\\";
    int bytes = 0;
    for (; *key; key++) {
        const char *escape = NULL;
        if (*key == '\\') {
            escape = key[1] ? strchr(letters, key[1]) : NULL;
            if (!escape) return -1;
            key++;
        }
        text[bytes++] = escape ? meant[escape - letters] : *key;
    }
    return bytes;
}

bool document_end_number(const char *key, int64_t *token) {
    char *end;
    errno = 0;
    *token = strtoll(key, &end, 10);
    return end != key && !*end && !errno && *token >= 0 && *token <= INT32_MAX;
}

bool documents_find_in_text(DocumentStarts *documents, const FileReader *text, const char *end,
                            int bytes, Error *err) {
    char *piece = malloc(PIECE_BYTES);
    CHECK_MEMORY(piece, "no memory for %d bytes", PIECE_BYTES);
    DocumentStarts found = {.searched = true};
    int64_t room = 0, at = 0; // `at`: of the piece, which begins behind the last end that was found
    bool ok = true;
    documents_add(&found, 0, &room);
    while (ok && at + bytes < text->bytes) {
        int64_t left = text->bytes - at;
        size_t some = left < PIECE_BYTES ? (size_t)left : PIECE_BYTES;
        ok = file_reader_read(text, at, some, piece, err);
        const char *from = piece, *hit;
        while (ok && (hit = memmem(from, some - (size_t)(from - piece), end, (size_t)bytes))) {
            from = hit + bytes;
            int64_t start = at + (from - piece);
            if (start < text->bytes) documents_add(&found, start, &room);
        }
        int64_t behind = from - piece, kept = (int64_t)some - (bytes - 1);
        at += behind > kept ? behind : kept; // an end may lie across the piece's
    }
    free(piece);
    if (ok) {
        documents_free(documents);
        *documents = found;
    } else {
        documents_free(&found);
    }
    return ok;
}

bool documents_count_characters(DocumentStarts *documents, const FileReader *text, Error *err) {
    if (!documents->starts) return true;
    uint8_t *piece = malloc(PIECE_BYTES);
    CHECK_MEMORY(piece, "no memory for %d bytes", PIECE_BYTES);
    int64_t next = 0, characters = 0;
    bool ok = true;
    for (int64_t at = 0; ok && at < text->bytes && next < documents->count; at += PIECE_BYTES) {
        int64_t left = text->bytes - at;
        int64_t some = left < PIECE_BYTES ? left : PIECE_BYTES;
        ok = file_reader_read(text, at, (size_t)some, piece, err);
        for (int64_t i = 0; ok && i < some; i++) {
            while (next < documents->count && documents->starts[next] == at + i)
                documents->starts[next++] = characters;
            characters += (piece[i] & 0xc0) != 0x80; // a character's first byte
        }
    }
    free(piece);
    return ok;
}

// ---- windows ------------------------------------------------------------------------------------

// The first document that begins behind a token.
static int64_t find_behind(const DocumentStarts *documents, int64_t token) {
    int64_t low = 0, high = documents->count; // the answer is in [low, high]
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (documents->starts[middle] <= token)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

int64_t documents_find(const DocumentStarts *documents, int64_t token) {
    if (documents->length > 0) return token / documents->length;
    return find_behind(documents, token) - 1;
}

bool documents_place(const DocumentStarts *documents, int64_t first, int64_t count,
                     const int32_t *tokens, int32_t next, int32_t *positions) {
    int64_t behind = documents->starts ? find_behind(documents, first) : 0;
    int32_t position = -1;
    for (int64_t i = 0; i <= count; i++) {
        bool begins = false;
        if (documents->starts) {
            for (; behind < documents->count && documents->starts[behind] <= first + i; behind++)
                begins = true;
        } else if (documents->length > 0) {
            begins = (first + i) % documents->length == 0;
        } else if (documents->marked) {
            int32_t token = i < count ? tokens[i] : next;
            begins = documents->mark_begins ? token == documents->mark
                                            : i > 0 && tokens[i - 1] == documents->mark;
        }
        if (i == count) return begins;
        position = begins ? 0 : position + 1;
        positions[i] = position;
    }
    return false;
}
