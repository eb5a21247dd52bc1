#include "worker/run/program_hash.h"

#include <stdio.h>

void hash_to_text(Hash hash, char text[HASH_TEXT_BYTES]) {
    for (size_t i = 0; i < sizeof hash.bytes; i++) snprintf(text + 2 * i, 3, "%02x", hash.bytes[i]);
}

bool program_hash(char text[HASH_TEXT_BYTES]) {
    char piece[65536];
    text[0] = 0;
    FILE *file = fopen("/proc/self/exe", "rb");
    if (!file) return false;
    Hasher *hasher = hasher_open();
    for (size_t got; (got = fread(piece, 1, sizeof piece, file)) > 0;)
        hasher_add(hasher, piece, got);
    Hash hash = hasher_close(hasher);
    bool ok = !ferror(file);
    if (ok) hash_to_text(hash, text);
    fclose(file);
    return ok;
}
