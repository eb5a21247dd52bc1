#include "checkpoint/hash.h"

#include <string.h>

#define XXH_INLINE_ALL // compiled here, for the vector units of this CPU
#include <xxhash.h>

#include "kernels/check.h"

struct Hasher {
    XXH3_state_t state;
};

static Hash hash_canonical(XXH128_hash_t value) {
    Hash hash;
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, value);
    memcpy(hash.bytes, canonical.digest, sizeof hash.bytes);
    return hash;
}

Hash hash_bytes(const void *data, size_t bytes) {
    return hash_canonical(XXH3_128bits(data, bytes));
}

bool hash_equal(Hash a, Hash b) {
    return memcmp(a.bytes, b.bytes, sizeof a.bytes) == 0;
}

Hasher *hasher_open(void) {
    Hasher *hasher = (Hasher *)XXH3_createState(); // aligned as the vector code wants it
    CHECK_MEMORY(hasher, "no memory for a hash");
    XXH3_128bits_reset(&hasher->state);
    return hasher;
}

void hasher_add(Hasher *hasher, const void *data, size_t bytes) {
    XXH3_128bits_update(&hasher->state, data, bytes);
}

Hash hasher_close(Hasher *hasher) {
    Hash hash = hash_canonical(XXH3_128bits_digest(&hasher->state));
    XXH3_freeState(&hasher->state);
    return hash;
}
