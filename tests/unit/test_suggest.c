// "did you mean": what is near, what is not, and how a wrong value is quoted.
#include "kernels/suggest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/utf8.h"

static void distances_are_levenshteins(void **state) {
    (void)state;
    assert_int_equal(edit_distance("", ""), 0);
    assert_int_equal(edit_distance("", "abc"), 3);
    assert_int_equal(edit_distance("kitten", "sitting"), 3);
    assert_int_equal(edit_distance("sitting", "kitten"), 3);
    assert_int_equal(edit_distance("flaw", "lawn"), 2);
    assert_int_equal(edit_distance("top_k", "top_k"), 0);
    char a[200], b[200];
    memset(a, 'a', sizeof a - 1), a[199] = 0;
    memcpy(b, a, sizeof a), b[0] = 'b', b[100] = 'b'; // letter 100 is not looked at
    assert_int_equal(edit_distance(a, b), 1);
}

static void the_nearest_word_is_suggested_when_it_is_near(void **state) {
    (void)state;
    static const char *const keys[] = {"moe.top_k",  "moe.experts", "train.steps", "data.train",
                                       "eval.every", "moe.every",   NULL};
    static const struct {
        const char *word, *near;
    } cases[] = {
        {"moe.topk", "moe.top_k"},
        {"top_k", "moe.top_k"},
        {"model.top_k", "moe.top_k"},
        {"train.stpes", "train.steps"},
        {"Moe.experts", "moe.experts"},
        {"moe.evry", "moe.every"},
        {"eval.evry", "eval.every"},
        {"every", "eval.every"}, // the first of equals
        {"banana", NULL},
        {"", NULL},
        {"x", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *near = suggest_word(cases[i].word, keys);
        if (cases[i].near)
            assert_string_equal(near, cases[i].near);
        else if (near)
            fail_msg("'%s' is taken for %s", cases[i].word, near);
    }
    assert_null(suggest_word("moe.top_k", (const char *const[]){NULL}));
}

static void a_quoted_value_is_one_short_line_of_whole_characters(void **state) {
    (void)state;
    char quoted[80];
    value_quote("3.5", quoted);
    assert_string_equal(quoted, "'3.5'");
    value_quote("a\nb\tc\x7f\x1b[31m", quoted);
    assert_string_equal(quoted, "'a?b?c??[31m'");
    char text[300];
    for (size_t begin = 50; begin < 64; begin++) { // a character of 2, 3 or 4 bytes at the cut
        static const char *const characters[] = {"é", "€", "😀"};
        for (int i = 0; i < 3; i++) {
            memset(text, 'x', begin);
            snprintf(text + begin, sizeof text - begin, "%s%040d", characters[i], 0);
            value_quote(text, quoted);
            size_t length = strlen(quoted);
            assert_in_range(length, 59, 62);
            assert_string_equal(quoted + length - 4, "...'");
            const uint8_t *at = (const uint8_t *)quoted, *end = at + length;
            while (at < end) {
                int32_t code;
                int bytes = utf8_decode(at, (size_t)(end - at), &code);
                if (bytes == 0) fail_msg("half a character in %s", quoted);
                at += bytes;
            }
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(distances_are_levenshteins),
        cmocka_unit_test(the_nearest_word_is_suggested_when_it_is_near),
        cmocka_unit_test(a_quoted_value_is_one_short_line_of_whole_characters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
