// XXH3-128 of bytes. It finds every accident, and no attacker: anybody can compute it. Not
// collective.
#ifndef MOETRAIN_CHECKPOINT_HASH_H
#define MOETRAIN_CHECKPOINT_HASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct Hash {
    uint8_t bytes[16]; // the canonical, big-endian form that other tools print
} Hash;

Hash hash_bytes(const void *data, size_t bytes);
bool hash_equal(Hash a, Hash b);

// The same for bytes that arrive in pieces. hasher_close frees it; its result may be ignored.
typedef struct Hasher Hasher;
Hasher *hasher_open(void);
void hasher_add(Hasher *hasher, const void *data, size_t bytes);
Hash hasher_close(Hasher *hasher);

#endif
