// What token numbers stand for: bytes, the characters of a training text, or somebody else's tokens.
#ifndef MOETRAIN_WORKER_VOCABULARY_H
#define MOETRAIN_WORKER_VOCABULARY_H

#include "worker/train_config.h"

typedef struct Vocabulary {
    DataFormat format; // never DATA_AUTO
    int64_t size;
    int32_t *code_points;   // (size) of DATA_CHARACTERS in ascending order, owned; otherwise NULL
    double bytes_per_token; // of uint16/uint32 as configured; 0: unknown
} Vocabulary;

// Decides the format, reads the characters of the training file where needed. False with exit 2 or 3. Not collective.
bool vocabulary_open(Vocabulary *vocabulary, const DataConfig *config, Error *err);
// The vocabulary of a checkpoint: code points as saved there (copied). Not collective.
void vocabulary_from_code_points(Vocabulary *vocabulary, const DataConfig *config,
                                 const int32_t *code_points, int64_t size);
void vocabulary_free(Vocabulary *vocabulary); // legal on a zeroed struct

// The token of a character, or -1 when the vocabulary lacks it. DATA_CHARACTERS only.
int32_t vocabulary_find(const Vocabulary *vocabulary, int32_t code_point);

// Text to tokens; *count of at most `room`. False with exit 2 naming the character that is not in the vocabulary, or
// when the vocabulary has no text (uint16/uint32: tokens are then written as numbers separated by spaces).
bool vocabulary_encode(const Vocabulary *vocabulary, const char *text, int32_t *tokens, int64_t room,
                       int64_t *count, Error *err);
// The text of one token, NUL-terminated (a byte as it is, a character in UTF-8, a number and a space). Returns its bytes.
int vocabulary_decode(const Vocabulary *vocabulary, int32_t token, char text[32]);

#endif
