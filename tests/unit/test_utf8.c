#include "kernels/utf8.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void assert_shown(const char *text, const char *wanted) {
    char shown[256];
    utf8_make_printable(text, shown, sizeof shown);
    assert_string_equal(wanted, shown);
}

static void letters_of_every_script_are_shown_as_they_are(void **state) {
    (void)state;
    assert_shown("", "");
    assert_shown("a b'\"\\~", "a b'\"\\~");
    assert_shown("Gr\xC3\xB6\xC3\x9F"
                 "e \xE6\xBC\xA2 \xF0\x9F\x99\x82",
                 "Gr\xC3\xB6\xC3\x9F"
                 "e \xE6\xBC\xA2 \xF0\x9F\x99\x82");
}

static void what_a_terminal_would_obey_is_shown_as_an_escape(void **state) {
    (void)state;
    assert_shown("a\nb\tc\rd\x1B[31m\x7F\x01", "a\\nb\\tc\\rd\\x1b[31m\\x7f\\x01");
    assert_shown("\xC2\x85\xC2\x9B", "\\x85\\x9b");             // C1: next line, CSI
    assert_shown("\xE2\x80\xA8\xE2\x80\xA9", "\\u2028\\u2029"); // separators
    assert_shown("\xE2\x80\xAE"
                 "cba\xE2\x81\xA6",
                 "\\u202ecba\\u2066"); // direction of writing
}

static void bytes_that_are_not_utf8_are_shown_in_hexadecimal(void **state) {
    (void)state;
    assert_shown("a\xFF"
                 "b",
                 "a\\xffb");
    assert_shown("\xC3", "\\xc3"); // a message that was cut off within a character
    assert_shown("\xC3(", "\\xc3(");
    assert_shown("\xED\xA0\x80", "\\xed\\xa0\\x80");
}

static void a_text_that_does_not_fit_ends_with_a_whole_character(void **state) {
    (void)state;
    char shown[8] = "xxxxxxx";
    utf8_make_printable("a\xE6\xBC\xA2\xE6\xBC\xA2", shown, 7);
    assert_string_equal("a\xE6\xBC\xA2", shown);
    utf8_make_printable("ab\n\n", shown, 6);
    assert_string_equal("ab\\n", shown);
    utf8_make_printable("abc", shown, 1);
    assert_string_equal("", shown);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(letters_of_every_script_are_shown_as_they_are),
        cmocka_unit_test(what_a_terminal_would_obey_is_shown_as_an_escape),
        cmocka_unit_test(bytes_that_are_not_utf8_are_shown_in_hexadecimal),
        cmocka_unit_test(a_text_that_does_not_fit_ends_with_a_whole_character),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
