// Files of ranks as tiktoken has them: a line for each token, its bytes in base64 and its rank,
// which is its number and says how early it is merged. The file names no pattern. Not collective.
#ifndef MOETRAIN_WORKER_TOKENIZER_TIKTOKEN_FILE_H
#define MOETRAIN_WORKER_TOKENIZER_TIKTOKEN_FILE_H

#include "worker/tokenizer/tokenizer_write.h"

// The tokens, and the merges that follow from their ranks: of each token every pair of tokens that
// makes it. `special`: a list parted by commas of tokens that get the numbers behind the last rank.
// False with exit 3 and the line, or exit 2 for a wrong list.
bool tiktoken_file_read(const char *text, size_t bytes, SplitKind split, const char *special,
                        TokenizerSpec *spec, Error *err);

#endif
