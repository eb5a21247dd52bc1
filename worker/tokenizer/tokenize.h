// `moetrain tokenize`: text to token numbers, as a file or to be read, and back. "-" is standard
// input, which is read in pieces as it comes, and as output standard output. Not collective.
#ifndef MOETRAIN_WORKER_TOKENIZER_TOKENIZE_H
#define MOETRAIN_WORKER_TOKENIZER_TOKENIZE_H

#include "kernels/check.h"

typedef struct TokenizeOptions {
    const char *tokenizer; // a file
    const char *pattern;   // a word of SPLIT_CHOICES for ranks of tiktoken, or NULL
    const char *output;    // the new file; NULL: standard output, numbers being decimal there
    bool decode;           // the file holds tokens and becomes text
} TokenizeOptions;

bool tokenize_check(const TokenizeOptions *options, Error *err); // exit 2
int tokenize_run(const char *path, const TokenizeOptions *options, Error *err);

#endif
