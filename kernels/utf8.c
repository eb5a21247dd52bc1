#include "kernels/utf8.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

int utf8_decode(const uint8_t *text, size_t bytes, int32_t *code_point) {
    static const int32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000}; // by length; below it: overlong
    if (bytes == 0) return 0;
    uint8_t lead = text[0];
    int length = lead < 0x80 ? 1 : lead < 0xC0 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    if (length == 0 || (size_t)length > bytes || lead > 0xF4) return 0;
    int32_t value = length == 1 ? lead : lead & (0x7F >> length);
    for (int i = 1; i < length; i++) {
        if ((text[i] & 0xC0) != 0x80) return 0;
        value = value << 6 | (text[i] & 0x3F);
    }
    if (value < smallest[length] || value >= CODE_POINTS) return 0;
    if (value >= 0xD800 && value < 0xE000) return 0;
    *code_point = value;
    return length;
}

size_t utf8_valid_bytes(const uint8_t *text, size_t bytes) {
    size_t at = 0;
    while (at < bytes) {
        uint64_t eight;
        int32_t ignored;
        if (bytes - at >= sizeof eight) {
            memcpy(&eight, text + at, sizeof eight);
            if ((eight & 0x8080808080808080u) == 0) { // all of them ASCII
                at += sizeof eight;
                continue;
            }
        }
        int length = utf8_decode(text + at, bytes - at, &ignored);
        if (length == 0) break;
        at += (size_t)length;
    }
    return at;
}

int utf8_encode(int32_t code_point, char text[5]) {
    static const uint8_t leads[] = {0, 0, 0xC0, 0xE0, 0xF0};
    int length = code_point < 0x80 ? 1 : code_point < 0x800 ? 2 : code_point < 0x10000 ? 3 : 4;
    for (int i = length - 1; i > 0; i--) {
        text[i] = (char)(0x80 | (code_point & 0x3F));
        code_point >>= 6;
    }
    text[0] = (char)(leads[length] | code_point);
    text[length] = '\0';
    return length;
}

// What a terminal would obey instead of showing it.
static bool is_control(int32_t code_point) {
    bool control = code_point < 0x20 || (code_point >= 0x7F && code_point < 0xA0);
    bool separator = code_point == 0x2028 || code_point == 0x2029;
    bool direction = (code_point >= 0x202A && code_point <= 0x202E) ||
                     (code_point >= 0x2066 && code_point <= 0x2069) || code_point == 0x200E ||
                     code_point == 0x200F;
    return control || separator || direction;
}

// The character or byte at text as it may be shown. Returns the bytes taken.
static int show_one(const uint8_t *text, size_t bytes, char shown[8]) {
    static const char names[] = "abtnvfr"; // 0x07 …
    int32_t code_point = text[0];
    int length = utf8_decode(text, bytes, &code_point);
    if (length == 0 || (code_point < 0x100 && is_control(code_point))) {
        if (length > 0 && code_point >= 0x07 && code_point <= 0x0D)
            snprintf(shown, 8, "\\%c", names[code_point - 0x07]);
        else
            snprintf(shown, 8, "\\x%02x", (unsigned)code_point & 0xFF);
    } else if (is_control(code_point)) {
        snprintf(shown, 8, "\\u%04x", (unsigned)code_point & 0xFFFF);
    } else {
        memcpy(shown, text, (size_t)length);
        shown[length] = '\0';
    }
    return length > 0 ? length : 1;
}

void utf8_make_printable(const char *text, char *printable, size_t room) {
    size_t bytes = strlen(text), used = 0;
    for (size_t at = 0; at < bytes;) {
        char shown[8];
        at += (size_t)show_one((const uint8_t *)text + at, bytes - at, shown);
        size_t length = strlen(shown);
        if (used + length >= room) break;
        memcpy(printable + used, shown, length);
        used += length;
    }
    printable[used] = '\0';
}
