// Text to words, one stage after the other: each cuts every piece that it is given at the matches
// of a pattern; matches and what lies between them are pieces. PCRE2 compiles the patterns to
// machine code. Its tables are of one version of Unicode (14 in Debian 12's): what was assigned
// later is no letter and no number here, while the tokenizers library (16 in 2026) cuts elsewhere;
// of all that version 14 has, both say the same. Not collective.
#ifndef MOETRAIN_WORKER_TOKENIZER_PRE_SPLIT_H
#define MOETRAIN_WORKER_TOKENIZER_PRE_SPLIT_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/check.h"

enum { MOST_SPLIT_STAGES = 16 };

typedef struct PreSplit PreSplit;             // threads may share it
typedef struct PreSplitRunner PreSplitRunner; // of one thread

typedef void PieceFunction(void *context, const uint8_t *piece, size_t bytes);

PreSplit *pre_split_new(void);
// A further stage. False with exit 3 and the place in the pattern (as split_pattern.h has it for
// PCRE2), also for one that matches nothing but the empty text somewhere.
bool pre_split_add(PreSplit *split, const char *pattern, Error *err);
void pre_split_free(PreSplit *split); // legal on NULL; after its runners

PreSplitRunner *pre_split_runner(const PreSplit *split);
void pre_split_runner_free(PreSplitRunner *runner); // legal on NULL
// Gives the pieces of a text, which is valid UTF-8, to `take`, in order and none of them empty.
// Without stages the text is one piece. False with exit 3 where a pattern exceeds PCRE2's limits.
bool pre_split_run(PreSplitRunner *runner, const uint8_t *text, size_t bytes, PieceFunction *take,
                   void *context, Error *err);

#endif
