#include "launcher/config_path.h"

#include <stdio.h>
#include <string.h>

#include "kernels/utf8.h"

bool path_is_printable(const char *text) {
    const uint8_t *at = (const uint8_t *)text, *end = at + strlen(text);
    while (at < end) {
        int32_t code = 0;
        int bytes = utf8_decode(at, (size_t)(end - at), &code);
        bool control = code < 0x20 || (code >= 0x7F && code < 0xA0);
        bool separator = code == 0x2028 || code == 0x2029;
        bool no_character = code == 0xFEFF || code == 0xFFFE || code == 0xFFFF;
        if (bytes == 0 || control || separator || no_character) return false;
        at += bytes;
    }
    return true;
}

bool path_resolve(const char *base_folder, const char *path, char resolved[CONFIG_PATH_BYTES],
                  Error *err) {
    size_t base = strlen(base_folder);
    if (path[0] == '/') base = 0;
    if (base > 0 && strcmp(path, ".") == 0) path = "./";
    while (base > 0) { // the base has no symbolic links, so ../ may be taken off by name
        if (strncmp(path, "./", 2) == 0) {
            path += 2;
        } else if (strncmp(path, "../", 3) == 0) {
            path += 3;
            while (base > 1 && base_folder[base - 1] != '/') base--;
            if (base > 1) base--;
        } else {
            break;
        }
    }
    const char *slash = base > 0 && base_folder[base - 1] != '/' && path[0] ? "/" : "";
    int length =
        snprintf(resolved, CONFIG_PATH_BYTES, "%.*s%s%s", (int)base, base_folder, slash, path);
    if (length < CONFIG_PATH_BYTES) return true;
    return error_set(err, EXIT_CONFIG, "the path is %d bytes long; at most %d are possible", length,
                     CONFIG_PATH_BYTES - 1);
}
