// What modules of multi-token prediction take and are to predict, and where there is nothing.
#include "worker/data/tokens_ahead.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "kernels/kernels.h"

enum { NONE = NO_TARGET };

// Two windows of tokens 10, 11, …; the target of each row is the next token.
static void windows_end(void **state) {
    (void)state;
    const int32_t targets[] = {11, 12, 13, 14, 21, 22, 23, 24};
    const int32_t wanted_tokens[] = {11, 12, 13, 14, 21, 22, 23, 24, 12, 13, 14, 0, 22, 23, 24, 0};
    const int32_t wanted_targets[] = {12, 13, 14,   NONE, 22, 23, 24,   NONE,
                                      13, 14, NONE, NONE, 23, 24, NONE, NONE};
    int32_t tokens[16], targets_of[16];
    tokens_ahead(2, 2, 4, targets, NULL, tokens, targets_of);
    assert_memory_equal(tokens, wanted_tokens, sizeof tokens);
    assert_memory_equal(targets_of, wanted_targets, sizeof targets_of);
}

// A document of three tokens, a piece of a longer one, whose last target is not in the window, and
// a document of two.
static void documents_end(void **state) {
    (void)state;
    const int32_t targets[] = {11, 12, NONE, 21, 22, 23, 31, NONE};
    const int32_t positions[] = {0, 1, 2, 0, 1, 2, 0, 1};
    const int32_t wanted_tokens[] = {11, 12, 0, 21, 22, 23, 31, 0, 12, 0, 0, 22, 23, 0, 0, 0};
    const int32_t wanted_targets[] = {12,   NONE, NONE, 22, 23,   NONE, NONE, NONE,
                                      NONE, NONE, NONE, 23, NONE, NONE, NONE, NONE};
    int32_t tokens[16], targets_of[16];
    tokens_ahead(2, 1, 8, targets, positions, tokens, targets_of);
    assert_memory_equal(tokens, wanted_tokens, sizeof tokens);
    assert_memory_equal(targets_of, wanted_targets, sizeof targets_of);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(windows_end),
        cmocka_unit_test(documents_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
