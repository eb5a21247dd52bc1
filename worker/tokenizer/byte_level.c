#include "worker/tokenizer/byte_level.h"

#include "kernels/utf8.h"

// Bytes that are no printable characters of Latin-1, in three runs: the code points behind U+00FF
// count through them.
enum { FIRST_RUN = 0x21, SECOND = 0x7F, SECOND_RUN = 0x22, THIRD = 0xAD };

static int32_t character_of(uint8_t byte) {
    if (byte < FIRST_RUN) return 0x100 + byte;
    if (byte >= SECOND && byte < SECOND + SECOND_RUN) return 0x100 + FIRST_RUN + byte - SECOND;
    return byte == THIRD ? 0x100 + FIRST_RUN + SECOND_RUN : byte;
}

static int byte_of(int32_t character) { // or -1
    if (character < 0x100) return character_of((uint8_t)character) == character ? character : -1;
    int32_t place = character - 0x100;
    if (place < FIRST_RUN) return place;
    if (place < FIRST_RUN + SECOND_RUN) return place - FIRST_RUN + SECOND;
    return place == FIRST_RUN + SECOND_RUN ? THIRD : -1;
}

size_t byte_level_write(const uint8_t *bytes, size_t count, char *text) {
    size_t written = 0;
    for (size_t i = 0; i < count; i++) {
        char character[5];
        int length = utf8_encode(character_of(bytes[i]), character);
        for (int j = 0; j < length; j++) text[written++] = character[j];
    }
    return written;
}

bool byte_level_read(const char *text, size_t count, uint8_t *bytes, size_t *read) {
    size_t n = 0;
    for (size_t at = 0; at < count;) {
        int32_t character;
        int length = utf8_decode((const uint8_t *)text + at, count - at, &character);
        int byte = length > 0 ? byte_of(character) : -1;
        if (byte < 0) return false;
        bytes[n++] = (uint8_t)byte;
        at += (size_t)length;
    }
    *read = n;
    return true;
}

uint8_t byte_level_sorted(int place) {
    for (int32_t character = 0; character < 0x144; character++)
        if (byte_of(character) >= 0 && place-- == 0) return (uint8_t)byte_of(character);
    return 0; // not reached: 256 characters stand for bytes
}
