// What token numbers stand for: bytes, the characters of a training text, or somebody else's
// tokens.
#ifndef MOETRAIN_WORKER_VOCABULARY_H
#define MOETRAIN_WORKER_VOCABULARY_H

#include "worker/character_text.h"

typedef struct Vocabulary {
    DataFormat format; // never DATA_AUTO
    int64_t size;
    int32_t *code_points;   // (size) of DATA_CHARACTERS in ascending order, owned; otherwise NULL
    double bytes_per_token; // of uint16/uint32 as configured; 0: unknown
    bool fixed;             // a checkpoint's, which cannot grow
    // Whether data files are refused whose content is something else (data_format.h): not where
    // bytes were asked for by name, which may be any bytes, nor with data.check: false.
    bool check_content;
    // of DATA_CHARACTERS: the training text, decoded on the way; data files of this path borrow it
    CharacterText text;
} Vocabulary;

// Decides the format, reads the characters of the training file where needed. False with exit 2 or
// 3. Not collective.
bool vocabulary_open(Vocabulary *vocabulary, const DataConfig *config, Error *err);
// The vocabulary of a checkpoint: code points as saved there (copied; NULL unless the format is
// characters), `size` that of its embedding. False with exit 4 when format, size and code points do
// not belong together. Not collective.
bool vocabulary_from_checkpoint(Vocabulary *vocabulary, const DataConfig *config,
                                const int32_t *code_points, int64_t size, Error *err);
void vocabulary_free(Vocabulary *vocabulary); // legal on a zeroed struct; after the data files

// The token of a character, or -1 when the vocabulary lacks it. DATA_CHARACTERS only.
int32_t vocabulary_find(const Vocabulary *vocabulary, int32_t code_point);

// Text to tokens; *count of at most `room`. False with exit 2 naming the character that is not in
// the vocabulary, or when the vocabulary has no text (uint16/uint32: tokens are then written as
// numbers separated by white space).
bool vocabulary_encode(const Vocabulary *vocabulary, const char *text, int32_t *tokens,
                       int64_t room, int64_t *count, Error *err);
// The text of one token, NUL-terminated (a byte as it is, a character in UTF-8, a number and a
// space). Returns its bytes.
int vocabulary_decode(const Vocabulary *vocabulary, int32_t token, char text[32]);

#endif
