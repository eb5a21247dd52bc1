// Random numbers: Random123's published vectors, streams that never meet, moments.
#include "kernels/rng.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

// Rows "philox4x32 10" of Random123's kat_vectors. A purpose of 0 leaves the counter as it is.
static void words_are_those_of_random123(void **state) {
    (void)state;
    static const struct {
        RngStream stream;
        uint64_t index;
        uint32_t words[4];
    } vectors[] = {
        {{0}, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{UINT64_MAX, 0, UINT32_MAX, UINT32_MAX},
         UINT64_MAX,
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x299f31d0a4093822, 0, 0x13198a2e, 0x03707344},
         0x85a308d3243f6a88,
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
        uint32_t words[4];
        rng_words(vectors[i].stream, vectors[i].index, words);
        for (int w = 0; w < 4; w++) assert_int_equal(words[w], vectors[i].words[w]);
        assert_int_equal(rng_u32(vectors[i].stream, vectors[i].index), words[0]);
    }
}

static void every_part_of_a_stream_changes_the_numbers(void **state) {
    (void)state;
    const RngStream base = {.seed = 1, .purpose = RNG_TEST, .a = 2, .b = 3};
    RngStream others[] = {base, base, base, base, base};
    others[0].seed++;
    others[1].purpose = RNG_DROP;
    others[2].a++;
    others[3].b++;
    others[4].seed += (uint64_t)1 << 32;
    for (int i = 0; i < 5; i++) assert_int_not_equal(rng_u32(base, 9), rng_u32(others[i], 9));
    assert_int_not_equal(rng_u32(base, 9), rng_u32(base, 9 + ((uint64_t)1 << 32)));
}

// The hash of a name is fixed for ever: other initial values would follow from another.
static void a_name_is_a_stream(void **state) {
    (void)state;
    RngStream stream = rng_named(5, RNG_INIT, "embedding");
    assert_true(stream.seed == 5 && stream.purpose == RNG_INIT);
    assert_int_equal(stream.a, 0xc81fcdf7);
    assert_int_equal(stream.b, 0xcb36ef24);
    RngStream other = rng_named(5, RNG_INIT, "embeddinh");
    assert_int_not_equal(other.a, stream.a);
    assert_int_not_equal(other.b, stream.b);
}

// 2^56 numbers of one purpose lie apart from those of the next.
static void the_purpose_is_the_top_byte_of_the_index(void **state) {
    (void)state;
    const RngStream base = {.seed = 1}, drop = {.seed = 1, .purpose = RNG_DROP};
    uint64_t last = ((uint64_t)1 << 56) - 1;
    assert_int_equal(rng_u32(drop, last), rng_u32(base, last | (uint64_t)RNG_DROP << 56));
}

// Means of 2^16 numbers: standard deviations are σ/256, bounds six of them.
static void moments_are_right(void **state) {
    (void)state;
    enum { COUNT = 1 << 16 };
    const RngStream stream = {.seed = 5, .purpose = RNG_TEST};
    double mean = 0, normal_mean = 0, normal_square = 0;
    for (uint64_t i = 0; i < COUNT; i++) {
        double u = (double)rng_uniform(stream, i), z = rng_normal(stream, i);
        assert_true(u >= 0 && u < 1);
        assert_true(isfinite(z));
        mean += u / COUNT;
        normal_mean += z / COUNT;
        normal_square += z * z / COUNT;
    }
    assert_true(fabs(mean - 0.5) < 6 * sqrt(1.0 / 12) / 256);
    assert_true(fabs(normal_mean) < 6.0 / 256);
    assert_true(fabs(normal_square - 1) < 6 * sqrt(2.0) / 256);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_are_those_of_random123),
        cmocka_unit_test(every_part_of_a_stream_changes_the_numbers),
        cmocka_unit_test(a_name_is_a_stream),
        cmocka_unit_test(the_purpose_is_the_top_byte_of_the_index),
        cmocka_unit_test(moments_are_right),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
