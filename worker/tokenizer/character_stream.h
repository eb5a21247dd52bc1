// Text that is written as its tokens come: a token may end within a character, whose bytes are held
// back until the rest of it is there. Bytes that are no UTF-8 pass as they are. Not collective.
#ifndef MOETRAIN_WORKER_TOKENIZER_CHARACTER_STREAM_H
#define MOETRAIN_WORKER_TOKENIZER_CHARACTER_STREAM_H

#include <stddef.h>
#include <stdint.h>

// Zero-initialise before use.
typedef struct CharacterStream {
    uint8_t held[4]; // the beginning of a character
    size_t count;
} CharacterStream;

enum { STREAM_ROOM = 3 }; // bytes that may come out beside those that went in

// Adds bytes; what can be written goes to `out`, which has room for `bytes` + STREAM_ROOM. Returns
// its length.
size_t character_stream_add(CharacterStream *stream, const void *text, size_t bytes, char *out);
// What is left in the end, up to STREAM_ROOM bytes.
size_t character_stream_end(CharacterStream *stream, char *out);

#endif
