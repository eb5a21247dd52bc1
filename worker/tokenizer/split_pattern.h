// The regular expressions that cut text into words before their bytes are merged: those of the
// field by name, and any of a tokenizer.json that means the same to PCRE2 as to Oniguruma, which
// the tokenizers library runs. Not collective.
#ifndef MOETRAIN_WORKER_TOKENIZER_SPLIT_PATTERN_H
#define MOETRAIN_WORKER_TOKENIZER_SPLIT_PATTERN_H

#include <stddef.h>

#include "kernels/check.h"
#include "kernels/choice.h"

typedef enum SplitKind { SPLIT_GPT2, SPLIT_LLAMA3, SPLIT_QWEN2, SPLIT_O200K } SplitKind;

typedef struct SplitFacts {
    Choice choice;
    const char *pattern; // as tokenizer.json has it
    bool in_byte_level;  // the pattern that the pre-tokenizer ByteLevel has by itself
    bool nfc;            // text is brought into normal form C first
} SplitFacts;
extern const ChoiceTable SPLIT_CHOICES;
const SplitFacts *split_facts(SplitKind kind);
// Whether --pattern is one of them; otherwise exit 2.
bool split_check(const char *pattern, Error *err);

// The pattern for PCRE2, in new memory. False with exit 3, place and cause where it has something
// that means another thing there, or that this program does not know.
bool split_pattern_translate(const char *pattern, char **translated, Error *err);
// The pattern that matches a text itself, in new memory.
char *split_pattern_quote(const char *text, size_t bytes);

#endif
