// `moetrain train-tokenizer`: a tokenizer.json from texts; `moetrain convert-tokenizer`: from ranks
// of tiktoken. Not collective.
#ifndef MOETRAIN_WORKER_TOKENIZER_TRAIN_TOKENIZER_H
#define MOETRAIN_WORKER_TOKENIZER_TRAIN_TOKENIZER_H

#include <stdint.h>

#include "kernels/check.h"

typedef struct TrainTokenizerOptions {
    int64_t vocab;       // tokens; 0: not said
    const char *pattern; // a word of SPLIT_CHOICES; NULL: not said
    const char *special; // special tokens, parted by commas; NULL: not said
    int64_t threads;     // 0: what the machine has
    const char *output;  // the new file
} TrainTokenizerOptions;

bool train_tokenizer_check(const TrainTokenizerOptions *options, Error *err); // exit 2
// Returns the exit code.
int train_tokenizer_run(const char *const *texts, int count, const TrainTokenizerOptions *options,
                        Error *err);

bool convert_tokenizer_check(const TrainTokenizerOptions *options, Error *err); // exit 2
int convert_tokenizer_run(const char *path, const TrainTokenizerOptions *options, Error *err);

#endif
