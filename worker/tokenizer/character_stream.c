#include "worker/tokenizer/character_stream.h"

#include <string.h>

static size_t length_of_lead(uint8_t byte) { // 1: no lead of a longer character
    return byte >= 0xC2 && byte < 0xE0   ? 2
           : byte >= 0xE0 && byte < 0xF0 ? 3
           : byte >= 0xF0 && byte < 0xF5 ? 4
                                         : 1;
}

// Bytes at the end that begin a character and lack the rest of it.
static size_t unfinished(const uint8_t *text, size_t bytes) {
    for (size_t back = 1; back <= STREAM_ROOM && back <= bytes; back++) {
        uint8_t byte = text[bytes - back];
        if (length_of_lead(byte) > back) return back;
        if ((byte & 0xC0) != 0x80) return 0;
    }
    return 0;
}

size_t character_stream_add(CharacterStream *stream, const void *text, size_t bytes, char *out) {
    size_t all = stream->count + bytes;
    memcpy(out, stream->held, stream->count);
    memcpy(out + stream->count, text, bytes);
    size_t held = unfinished((const uint8_t *)out, all);
    memcpy(stream->held, out + all - held, held);
    stream->count = held;
    return all - held;
}

size_t character_stream_end(CharacterStream *stream, char *out) {
    size_t bytes = stream->count;
    memcpy(out, stream->held, bytes);
    stream->count = 0;
    return bytes;
}
