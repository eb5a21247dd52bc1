// Training of byte-pair encoding: of all neighbours in the words the most frequent pair becomes a
// token, again and again (Sennrich et al. 1508.07909). Not collective.
//
// Ties: of equally frequent pairs the one with the lower left number, then the lower right one. The
// numbers: special tokens first, then the 256 bytes in the order of their characters
// (byte_level.h), then the tokens as they are made. This is the rule of the BpeTrainer of the
// tokenizers library, whose merges come out for the same words.
#ifndef MOETRAIN_WORKER_TOKENIZER_BPE_TRAIN_H
#define MOETRAIN_WORKER_TOKENIZER_BPE_TRAIN_H

#include "worker/tokenizer/tokenizer_write.h"
#include "worker/tokenizer/word_counts.h"

// Tokens and merges for a vocabulary of `size`, fewer where no pair is left. `special`: a list
// parted by commas. False with exit 2 where it is wrong, or where the size has no room for the
// bytes. The result does not depend on the order of the words.
bool bpe_train(const WordCounts *counts, int64_t size, SplitKind split, const char *special,
               TokenizerSpec *spec, Error *err);

#endif
