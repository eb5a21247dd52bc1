// Unicode code points as bytes, strictly (Unicode 15, table 3-7): no overlong forms, surrogates or
// numbers past U+10FFFF.
#ifndef MOETRAIN_KERNELS_UTF8_H
#define MOETRAIN_KERNELS_UTF8_H

#include <stddef.h>
#include <stdint.h>

enum { CODE_POINTS = 0x110000 };

// Decodes the code point that starts at text; returns its bytes, 1 to 4, or 0 when it is malformed
// or cut off.
int utf8_decode(const uint8_t *text, size_t bytes, int32_t *code_point);
// Bytes from the beginning of text that are whole, valid characters.
size_t utf8_valid_bytes(const uint8_t *text, size_t bytes);
// Writes a code point and a NUL; returns its bytes without the NUL.
int utf8_encode(int32_t code_point, char text[5]);

// Copies text so that it is one line of UTF-8 that a terminal only shows: control characters, line
// separators, characters that turn the direction of writing, and bytes that are not UTF-8 become
// escapes like \n, \x1b and \u2028. Cut off, never in the middle of a character or an escape, when
// it does not fit into `room` bytes with its NUL.
void utf8_make_printable(const char *text, char *printable, size_t room);

#endif
