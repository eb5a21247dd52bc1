#include "worker/utf8.h"

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

bool utf8_next(const uint8_t *text, int64_t bytes, int64_t *at, int32_t *code_point,
               const char *path, Error *err) {
    int length = utf8_decode(text + *at, (size_t)(bytes - *at), code_point);
    if (length == 0)
        return error_set(err, EXIT_DATA,
                         "%s: byte %lld (0x%02X) does not continue valid UTF-8; convert the file "
                         "or set data.format: bytes",
                         path, (long long)*at, text[*at]);
    *at += length;
    return true;
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
