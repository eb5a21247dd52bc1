// What token numbers stand for: bytes, the characters of a training text, the tokens of a
// tokenizer, or somebody else's.
#ifndef MOETRAIN_WORKER_DATA_VOCABULARY_H
#define MOETRAIN_WORKER_DATA_VOCABULARY_H

#include "kernels/tensor.h"
#include "worker/data/character_text.h"
#include "worker/data/data_content.h"
#include "worker/tokenizer/tokenizer.h"

typedef struct Vocabulary {
    DataFormat format; // never DATA_AUTO
    int64_t size;
    int32_t *code_points;   // (size) of DATA_CHARACTERS in ascending order, owned; otherwise NULL
    double bytes_per_token; // of uint16/uint32 as configured; 0: unknown
    bool fixed;             // a checkpoint's, which cannot grow
    // Nothing is recognised where bytes were asked for by name, which may be any bytes, nor with
    // data.check: false.
    ContentRules content; // of data files of this vocabulary
    // of DATA_CHARACTERS: the training text, decoded on the way; data files of this path borrow it
    CharacterText text;
    Tokenizer *tokenizer; // of DATA_TOKENIZER, owned; otherwise NULL
    // Where tokens of texts are kept (token_cache.h); empty: each rank makes them itself.
    char token_folder[CONFIG_PATH_BYTES];
} Vocabulary;

// Decides the format, reads the characters of the training file where needed. False with exit 2 or
// 3. Not collective.
bool vocabulary_open(Vocabulary *vocabulary, const DataConfig *config, Error *err);
void vocabulary_free(Vocabulary *vocabulary); // legal on a zeroed struct; after the data files

// What checkpoints keep of a vocabulary, as a tensor of one axis.
typedef struct SavedVocabulary {
    const char *name;
    DType dtype;
} SavedVocabulary;
// The bytes of a tokenizer.json.
#define SAVED_TOKENIZER "data/tokenizer"
// The kinds of them, from 0; NULL behind the last.
const SavedVocabulary *saved_vocabulary(int number);
// What is to be saved of this one, borrowed; NULL: nothing, the configuration says it all.
const SavedVocabulary *vocabulary_saved(const Vocabulary *vocabulary, const void **data,
                                        int64_t *count);
// The vocabulary of a checkpoint: `count` elements of what is saved there (copied; NULL: nothing
// is), `size` that of its embedding. False with exit 4 when format, size and what is saved do not
// belong together. Not collective.
bool vocabulary_from_checkpoint(Vocabulary *vocabulary, const DataConfig *config,
                                const SavedVocabulary *saved, const void *data, int64_t count,
                                int64_t size, Error *err);

// The token of a character, or -1 when the vocabulary lacks it. DATA_CHARACTERS only.
int32_t vocabulary_find(const Vocabulary *vocabulary, int32_t code_point);

// The most tokens that a text of so many bytes has: NFC may make three bytes of one, and a
// tokenizer may put a space in front.
int64_t vocabulary_most_tokens(int64_t bytes);
// Text to tokens; *count of at most `room`. False with exit 2 naming the character that is not in
// the vocabulary, or when the vocabulary has no text (uint16/uint32: tokens are then written as
// numbers separated by white space).
bool vocabulary_encode(const Vocabulary *vocabulary, const char *text, int32_t *tokens,
                       int64_t room, int64_t *count, Error *err);
// What a text without a beginning begins after: a line break, or token 0 where there is none.
int32_t vocabulary_first_token(const Vocabulary *vocabulary);
// The bytes of one token: a byte, a character in UTF-8, a number and a space. They lie in `scratch`
// or in the vocabulary, and need not be whole characters.
const char *vocabulary_decode(const Vocabulary *vocabulary, int32_t token, char scratch[32],
                              size_t *bytes);

#endif
