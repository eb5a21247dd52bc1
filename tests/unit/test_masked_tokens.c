// Which tokens a masked model is asked for: so many of ten, whatever pieces they are drawn in.
#include "worker/data/masked_tokens.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

enum { TOKENS = 40000, VOCABULARY = 1000 };

static int32_t text[TOKENS], tokens[TOKENS], targets[TOKENS];

// A text whose every 50th token has no successor in its document.
static void begin_text(void) {
    for (int i = 0; i < TOKENS; i++) {
        text[i] = tokens[i] = (int32_t)rng_u32((RngStream){3, RNG_TEST, 0, 0}, (uint64_t)i) & 511;
        targets[i] = i % 50 == 49 ? NO_TARGET : 0;
    }
}

static MaskRule rule_of(double share) {
    return (MaskRule){.share = share, .mask_token = VOCABULARY, .seed = 7};
}

static void of_ten_eight_are_hidden_one_is_another_one_stays(void **state) {
    (void)state;
    const double share = 0.15;
    MaskRule rule = rule_of(share);
    double drawn = 0, hidden = 0, stayed = 0, other = 0;
    begin_text();
    mask_training_tokens(&rule, 0, 0, TOKENS, tokens, targets);
    for (int i = 0; i < TOKENS; i++) {
        bool is_target = targets[i] != NO_TARGET;
        assert_true(is_target ? targets[i] == text[i] && i % 50 != 49 : tokens[i] == text[i]);
        drawn += is_target;
        hidden += tokens[i] == VOCABULARY;
        stayed += is_target && tokens[i] == text[i];
        other += tokens[i] != text[i] && tokens[i] != VOCABULARY;
        assert_in_range(tokens[i], 0, VOCABULARY);
    }
    // Five standard deviations of counts out of so many.
    double possible = 0.98 * TOKENS;
    assert_true(fabs(drawn - share * possible) < 5 * sqrt(share * possible));
    assert_true(fabs(hidden - 0.8 * drawn) < 5 * sqrt(0.16 * drawn));
    assert_true(fabs(stayed - 0.1 * drawn) < 5 * sqrt(0.1 * drawn));
    assert_true(fabs(other - 0.1 * drawn) < 5 * sqrt(0.1 * drawn));
}

static void pieces_draw_what_the_whole_draws_and_epochs_do_not(void **state) {
    (void)state;
    enum { PIECE = 37 };
    static int32_t whole[TOKENS];
    MaskRule rule = rule_of(0.3);
    for (int evaluation = 0; evaluation < 2; evaluation++) {
        for (int piece = TOKENS; piece > 0; piece = piece == TOKENS ? PIECE : 0) {
            begin_text();
            for (int first = 0; first < TOKENS; first += piece) {
                int count = TOKENS - first < piece ? TOKENS - first : piece;
                if (evaluation)
                    mask_evaluation_tokens(&rule, first, count, tokens + first, targets + first);
                else
                    mask_training_tokens(&rule, 4, first, count, tokens + first, targets + first);
            }
            if (piece == TOKENS) memcpy(whole, tokens, sizeof whole);
            assert_memory_equal(whole, tokens, sizeof whole);
        }
        begin_text();
        mask_training_tokens(&rule, 5, 0, TOKENS, tokens, targets);
        assert_memory_not_equal(whole, tokens, sizeof whole);
    }
}

static void passes_mask_each_token_once(void **state) {
    (void)state;
    enum { PASSES = 7, FIRST = 3 };
    static int times[TOKENS];
    MaskRule rule = rule_of(0.15);
    rule.passes = PASSES;
    for (rule.pass = 0; rule.pass < PASSES; rule.pass++) {
        begin_text();
        mask_evaluation_tokens(&rule, FIRST, TOKENS, tokens, targets);
        for (int i = 0; i < TOKENS; i++) {
            assert_int_equal(tokens[i] == VOCABULARY, targets[i] != NO_TARGET);
            if (targets[i] != NO_TARGET) assert_int_equal(text[i], targets[i]);
            times[i] += targets[i] != NO_TARGET;
        }
    }
    for (int i = 0; i < TOKENS; i++) assert_int_equal(i % 50 != 49, times[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(of_ten_eight_are_hidden_one_is_another_one_stays),
        cmocka_unit_test(pieces_draw_what_the_whole_draws_and_epochs_do_not),
        cmocka_unit_test(passes_mask_each_token_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
