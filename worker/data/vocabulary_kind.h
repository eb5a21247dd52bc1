// How one kind of vocabulary works: a row of functions in vocabulary.c.
#ifndef MOETRAIN_WORKER_DATA_VOCABULARY_KIND_H
#define MOETRAIN_WORKER_DATA_VOCABULARY_KIND_H

#include "worker/data/vocabulary.h"

typedef struct VocabularyKind {
    // What a checkpoint keeps of it, one of saved_vocabularies(); NULL: nothing.
    const SavedVocabulary *saved;
    // That, of this vocabulary, borrowed. NULL where `saved` is.
    const void *(*keep)(const Vocabulary *vocabulary, int64_t *count);
    // Finds size and contents from the configuration and the files that it names.
    bool (*open)(Vocabulary *vocabulary, const DataConfig *config, Error *err);
    // Takes what a checkpoint keeps, `count` elements; NULL and 0: it keeps nothing. The size is
    // set. False, without a message, when they do not belong together.
    bool (*restore)(Vocabulary *vocabulary, const DataConfig *config, const void *saved,
                    int64_t count);
    // As vocabulary_encode and vocabulary_decode.
    bool (*encode)(const Vocabulary *vocabulary, const char *text, int32_t *tokens, int64_t room,
                   int64_t *count, Error *err);
    const char *(*decode)(const Vocabulary *vocabulary, int32_t token, char scratch[32],
                          size_t *bytes);
} VocabularyKind;

extern const VocabularyKind CHARACTER_VOCABULARY; // character_vocabulary.c
extern const VocabularyKind TOKENIZER_VOCABULARY; // tokenizer_vocabulary.c

// Exit 2 for a text of more tokens than there is room for. False.
bool vocabulary_too_long(int64_t room, Error *err);

#endif
