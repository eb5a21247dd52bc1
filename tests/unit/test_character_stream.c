#include "worker/tokenizer/character_stream.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/utf8.h"

static const char TEXT[] = "a\xC3\xA9 \xE2\x82\xAC\xF0\x9F\x98\x80\xF0\x9F\x91\xA8\xE2\x80\x8D z";

// Every piece that comes out of valid text is valid, wherever tokens end.
static void whole_characters_come_out_of_tokens_of_any_length(void **state) {
    (void)state;
    size_t length = strlen(TEXT);
    for (size_t step = 1; step <= 7; step++) {
        CharacterStream stream = {0};
        char all[64] = "", piece[16];
        size_t used = 0;
        for (size_t at = 0; at < length; at += step) {
            size_t bytes = length - at < step ? length - at : step;
            size_t out = character_stream_add(&stream, TEXT + at, bytes, piece);
            assert_int_equal(out, utf8_valid_bytes((const uint8_t *)piece, out));
            memcpy(all + used, piece, out);
            used += out;
        }
        assert_int_equal(0, character_stream_end(&stream, piece));
        assert_int_equal(length, used);
        assert_memory_equal(TEXT, all, length);
    }
}

static void bytes_that_are_no_characters_pass(void **state) {
    (void)state;
    CharacterStream stream = {0};
    char out[16];
    assert_int_equal(2, character_stream_add(&stream, "\x80\xFF", 2, out)); // never a beginning
    assert_int_equal(0, character_stream_add(&stream, "\xE2\x82", 2, out)); // a beginning
    assert_int_equal(3, character_stream_add(&stream, "x", 1, out));        // that does not go on
    assert_memory_equal("\xE2\x82x", out, 3);
    assert_int_equal(0, character_stream_add(&stream, "\xF0\x9F\x98", 3, out));
    assert_int_equal(3, character_stream_end(&stream, out)); // the text ends within it
    assert_memory_equal("\xF0\x9F\x98", out, 3);
    assert_int_equal(0, character_stream_end(&stream, out));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whole_characters_come_out_of_tokens_of_any_length),
        cmocka_unit_test(bytes_that_are_no_characters_pass),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
