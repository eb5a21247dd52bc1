// Hashes: the numbers that other tools print, however the bytes arrive.
#include "checkpoint/hash.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <xxhash.h> // of the library: hash.c has its own, compiled for this CPU

enum { BYTES = 1 << 20 };

static uint8_t data[BYTES];

// Lengths around the places where XXH3 changes its way: 16, 128, 240, its blocks of 1024.
static const size_t lengths[] = {0,   1,    3,    8,    9,    16,   17,    128,       129,
                                 240, 241,  511,  1023, 1024, 1025, 65536, BYTES - 1, BYTES,
                                 256, 2047, 2048, 2049, 4095, 4096, 4097};
enum { LENGTHS = sizeof lengths / sizeof *lengths };

static int fill(void **state) {
    (void)state;
    uint32_t x = 1;
    for (size_t i = 0; i < BYTES; i++) data[i] = (uint8_t)((x = x * 1664525 + 1013904223) >> 24);
    return 0;
}

static void the_hash_of_nothing_is_the_published_one(void **state) {
    (void)state;
    char hex[33];
    Hash hash = hash_bytes("", 0);
    for (int i = 0; i < 16; i++) snprintf(hex + 2 * i, 3, "%02x", hash.bytes[i]);
    assert_string_equal(hex, "99aa06d3014798d86001c324468d497f");
}

static void the_vector_units_hash_as_the_library_does(void **state) {
    (void)state;
    for (int i = 0; i < LENGTHS; i++) {
        XXH128_canonical_t wanted;
        XXH128_canonicalFromHash(&wanted, XXH3_128bits(data, lengths[i]));
        assert_memory_equal(hash_bytes(data, lengths[i]).bytes, wanted.digest, 16);
    }
}

static void pieces_hash_as_the_whole_does(void **state) {
    (void)state;
    static const size_t pieces[] = {1, 7, 256, 1000, 65537};
    for (int i = 0; i < LENGTHS; i++)
        for (int p = lengths[i] > 5000 ? 2 : 0; p < 5; p++) {
            Hasher *hasher = hasher_open();
            for (size_t at = 0; at < lengths[i]; at += pieces[p]) {
                size_t rest = lengths[i] - at;
                hasher_add(hasher, data + at, rest < pieces[p] ? rest : pieces[p]);
                hasher_add(hasher, data, 0);
            }
            assert_true(hash_equal(hasher_close(hasher), hash_bytes(data, lengths[i])));
        }
}

static void one_bit_anywhere_changes_it(void **state) {
    (void)state;
    Hash whole = hash_bytes(data, 4096);
    for (size_t i = 0; i < 4096; i += 61) {
        data[i] ^= (uint8_t)(1u << (i % 8));
        assert_false(hash_equal(hash_bytes(data, 4096), whole));
        data[i] ^= (uint8_t)(1u << (i % 8));
    }
    assert_true(hash_equal(hash_bytes(data, 4096), whole));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_hash_of_nothing_is_the_published_one),
        cmocka_unit_test(the_vector_units_hash_as_the_library_does),
        cmocka_unit_test(pieces_hash_as_the_whole_does),
        cmocka_unit_test(one_bit_anywhere_changes_it),
    };
    return cmocka_run_group_tests(tests, fill, NULL);
}
