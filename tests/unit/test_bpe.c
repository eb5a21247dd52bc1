#include "worker/tokenizer/bpe.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/rng.h"

static uint32_t draw(uint32_t i) {
    return rng_u32((RngStream){.seed = 7, .purpose = RNG_TEST}, i);
}

static void add_bytes(Bpe *bpe) {
    int missing;
    for (int byte = 0; byte < 256; byte++) {
        uint8_t one = (uint8_t)byte;
        assert_true(bpe_add_token(bpe, &one, 1, 255 - byte));
    }
    assert_true(bpe_find_bytes(bpe, &missing));
}

// Tokens of two random tokens each, as training would make them.
static Bpe random_merges(int count) {
    Bpe bpe = {0};
    add_bytes(&bpe);
    for (uint32_t i = 0; bpe.size < 256 + count; i++) {
        int32_t parts[2];
        uint8_t text[8192];
        size_t used = 0, bytes;
        for (uint32_t side = 0; side < 2; side++) {
            uint32_t random = draw(2 * i + side);
            bool letter = random % 4 < 2 || bpe.size == 256;
            parts[side] = letter ? 255 - ('a' + (int32_t)(random >> 8) % 3)
                                 : 256 + (int32_t)((random >> 8) % (uint32_t)(bpe.size - 256));
            const uint8_t *token = bpe_token(&bpe, parts[side], &bytes);
            assert_true(used + bytes <= sizeof text);
            memcpy(text + used, token, bytes);
            used += bytes;
        }
        int32_t id = bpe_find(&bpe, text, used);
        if (id < 0) {
            id = (int32_t)bpe.size;
            assert_true(bpe_add_token(&bpe, text, used, id));
        }
        bpe_add_merge(&bpe, parts[0], parts[1], id);
    }
    return bpe;
}

static const Merge *find(const Bpe *bpe, int32_t left, int32_t right) {
    for (uint64_t slot = 0; slot < bpe->merge_slots; slot++)
        if (bpe->merges[slot].pair == ((uint64_t)(left + 1) << 32 | (uint32_t)right))
            return &bpe->merges[slot];
    return NULL;
}

// The definition: of all neighbours the lowest rank, the leftmost first.
static int encode_slowly(const Bpe *bpe, const uint8_t *word, int count, int32_t *ids) {
    for (int i = 0; i < count; i++) ids[i] = bpe->byte_ids[word[i]];
    for (;;) {
        const Merge *best = NULL;
        int place = 0;
        for (int i = 0; i + 1 < count; i++) {
            const Merge *merge = find(bpe, ids[i], ids[i + 1]);
            if (merge && (!best || merge->rank < best->rank)) best = merge, place = i;
        }
        if (!best) return count;
        ids[place] = best->id;
        memmove(ids + place + 1, ids + place + 2, (size_t)(count - place - 2) * sizeof *ids);
        count--;
    }
}

static void words_of_every_length_are_merged_by_rank_and_place(void **state) {
    (void)state;
    Bpe bpe = random_merges(60);
    BpeScratch scratch = {0};
    for (uint32_t round = 0; round < 22; round++) {
        uint8_t word[90];
        int32_t expected[90];
        int count = 1 + 4 * (int)round; // on both sides of what counts as short
        for (int i = 0; i < count; i++)
            word[i] = (uint8_t)('a' + draw(1000 * round + (uint32_t)i) % 3);
        TokenList tokens = {0};
        bpe_encode(&bpe, &scratch, word, (size_t)count, &tokens);
        int expected_count = encode_slowly(&bpe, word, count, expected);
        assert_int_equal(expected_count, tokens.count);
        assert_memory_equal(expected, tokens.ids, (size_t)expected_count * sizeof *expected);
        token_list_free(&tokens);
    }
    bpe_scratch_free(&scratch);
    bpe_free(&bpe);
}

// With time quadratic in its length it would take hours.
static void a_very_long_word_takes_no_time(void **state) {
    (void)state;
    enum { BYTES = 1 << 21 };
    Bpe bpe = {0};
    BpeScratch scratch = {0};
    TokenList tokens = {0};
    add_bytes(&bpe);
    int32_t a = bpe.byte_ids['a'], size = 256;
    uint8_t *word = malloc(BYTES);
    assert_non_null(word);
    memset(word, 'a', BYTES);
    for (size_t length = 2; length <= 64; length *= 2, a = size++) { // aa, aaaa, …
        assert_true(bpe_add_token(&bpe, word, length, size));
        bpe_add_merge(&bpe, a, a, size);
    }
    bpe_encode(&bpe, &scratch, word, BYTES, &tokens);
    assert_int_equal(BYTES / 64, tokens.count);
    for (int64_t i = 0; i < tokens.count; i++) assert_int_equal(size - 1, tokens.ids[i]);
    token_list_free(&tokens);
    bpe_scratch_free(&scratch);
    bpe_free(&bpe);
    free(word);
}

static void a_word_that_is_a_token_stays_whole_where_that_is_asked_for(void **state) {
    (void)state;
    Bpe bpe = {0};
    BpeScratch scratch = {0};
    TokenList tokens = {0};
    add_bytes(&bpe);
    assert_true(bpe_add_token(&bpe, "xyz", 3, 300));
    bpe_encode(&bpe, &scratch, (const uint8_t *)"xyz", 3, &tokens);
    assert_int_equal(3, tokens.count);
    bpe.whole_words = true;
    bpe_encode(&bpe, &scratch, (const uint8_t *)"xyz", 3, &tokens);
    assert_int_equal(4, tokens.count);
    assert_int_equal(300, tokens.ids[3]);
    token_list_free(&tokens);
    bpe_free(&bpe);
}

static void a_token_or_an_id_is_given_once(void **state) {
    (void)state;
    Bpe bpe = {0};
    size_t bytes;
    assert_true(bpe_add_token(&bpe, "ab", 2, 5));
    assert_false(bpe_add_token(&bpe, "ab", 2, 6));
    assert_false(bpe_add_token(&bpe, "cd", 2, 5));
    assert_int_equal(6, bpe.size);
    assert_null(bpe_token(&bpe, 4, &bytes));
    assert_int_equal(-1, bpe_find(&bpe, "cd", 2));
    assert_int_equal(5, bpe_find(&bpe, "ab", 2));
    bpe_free(&bpe);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_of_every_length_are_merged_by_rank_and_place),
        cmocka_unit_test(a_very_long_word_takes_no_time),
        cmocka_unit_test(a_word_that_is_a_token_stays_whole_where_that_is_asked_for),
        cmocka_unit_test(a_token_or_an_id_is_given_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
