// Bytes as printable characters, the way byte-level BPE writes its tokens into text files: each of
// the 256 bytes is one character, printable ones of Latin-1 themselves, the others U+0100 … U+0143
// in order (GPT-2's encoder.py). Not collective.
#ifndef MOETRAIN_WORKER_TOKENIZER_BYTE_LEVEL_H
#define MOETRAIN_WORKER_TOKENIZER_BYTE_LEVEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Writes bytes as characters, at most two bytes each, without a NUL; returns the bytes written.
size_t byte_level_write(const uint8_t *bytes, size_t count, char *text);
// The bytes that a text stands for, at most as many as it has itself. False when it holds a
// character that stands for no byte.
bool byte_level_read(const char *text, size_t count, uint8_t *bytes, size_t *read);
// The byte whose character is number `place` in the order of code points.
uint8_t byte_level_sorted(int place);

#endif
