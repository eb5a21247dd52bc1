// Unicode's normal form C: characters composed where they can be, as tokenizers of the Qwen family
// want their text. By utf8proc's version of Unicode (15 in Debian 12's): about a hundred combining
// marks, all rare and newer than the tables of the tokenizers library, it orders where the library
// does not. Not collective.
#ifndef MOETRAIN_WORKER_TOKENIZER_NORMAL_FORM_H
#define MOETRAIN_WORKER_TOKENIZER_NORMAL_FORM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Whether a text, which is valid UTF-8, may be in another form. False for all below U+0300.
bool normal_form_may_change(const uint8_t *text, size_t bytes);
// The text in form C, to be freed by the caller.
uint8_t *normal_form_compose(const uint8_t *text, size_t bytes, size_t *composed);

#endif
