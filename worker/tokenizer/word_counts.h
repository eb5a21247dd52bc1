// How often each word occurs in some texts: what byte-pair encoding is trained on. Not collective.
#ifndef MOETRAIN_WORKER_TOKENIZER_WORD_COUNTS_H
#define MOETRAIN_WORKER_TOKENIZER_WORD_COUNTS_H

#include "kernels/check.h"
#include "worker/tokenizer/byte_strings.h"
#include "worker/tokenizer/split_pattern.h"

// Zero-initialise before use.
typedef struct WordCounts {
    ByteStrings words;
    int64_t *counts; // (words.count), owned
    int64_t room;
    int64_t text_bytes; // of all texts
} WordCounts;

// Counts the words of text files. A text is cut into lines first, each with its line break, as the
// trainer of the tokenizers library reads files; bytes that are no UTF-8 are words of their own.
// The order of the words depends on `threads`, nothing else does. False with exit 3 and the path.
bool word_counts_read(WordCounts *counts, const char *const *paths, int path_count, SplitKind split,
                      int threads, Error *err);
void word_counts_free(WordCounts *counts); // legal on a zeroed struct

#endif
