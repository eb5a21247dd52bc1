// A tokenizer.json from its parts, as the tokenizers library writes it. Not collective.
#ifndef MOETRAIN_WORKER_TOKENIZER_TOKENIZER_WRITE_H
#define MOETRAIN_WORKER_TOKENIZER_TOKENIZER_WRITE_H

#include "worker/tokenizer/byte_strings.h"
#include "worker/tokenizer/split_pattern.h"

typedef struct TokenPair {
    int32_t left, right;
} TokenPair;

typedef struct TokenizerSpec {
    ByteStrings tokens; // by id, as text: bytes are characters (byte_level.h); owned
    TokenPair *merges;  // (merge_count) in the order of their ranks; owned
    int64_t merge_count;
    int32_t special_first, special_count; // the ids of the special tokens
    SplitKind split;
    bool whole_words; // ignore_merges
} TokenizerSpec;

void tokenizer_spec_free(TokenizerSpec *spec); // legal on a zeroed struct
// The text of the file, to be freed by the caller.
char *tokenizer_write(const TokenizerSpec *spec, size_t *bytes);

// Appends the special tokens of a list parted by commas; false with exit 2 where one is empty or
// has come before.
bool tokenizer_spec_add_special(TokenizerSpec *spec, const char *list, Error *err);

#endif
