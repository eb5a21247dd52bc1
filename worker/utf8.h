// Unicode code points as bytes, strictly (Unicode 15, table 3-7): no overlong forms, surrogates or numbers past U+10FFFF.
#ifndef MOETRAIN_WORKER_UTF8_H
#define MOETRAIN_WORKER_UTF8_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/check.h"

enum { CODE_POINTS = 0x110000 };

// Decodes the code point that starts at text; returns its bytes, 1 to 4, or 0 when it is malformed or cut off.
int utf8_decode(const uint8_t *text, size_t bytes, int32_t *code_point);
// Takes the code point at text[*at] and moves *at behind it. False with exit 3, naming path and offset, when it is malformed.
bool utf8_next(const uint8_t *text, int64_t bytes, int64_t *at, int32_t *code_point,
               const char *path, Error *err);
// Writes a code point and a NUL; returns its bytes without the NUL.
int utf8_encode(int32_t code_point, char text[5]);

#endif
