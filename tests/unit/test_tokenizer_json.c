// What a tokenizer.json may not ask for, and files that are none. Its tokens are the matter of
// tests/reference/test_tokenizer.c.
#include "worker/tokenizer/tokenizer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "worker/tokenizer/bpe_train.h"
#include "worker/tokenizer/tiktoken_file.h"

// The 256 bytes, the special token <|e|> and the tokens "aa" and "aaa".
static char *sound_json(SplitKind split) {
    WordCounts counts = {0};
    TokenizerSpec spec = {0};
    Error err = {0};
    size_t bytes;
    counts.counts = malloc(sizeof *counts.counts);
    assert_non_null(counts.counts);
    byte_strings_add(&counts.words, "aaa", 3, NULL);
    counts.counts[0] = 1;
    assert_true(bpe_train(&counts, 259, split, "<|e|>", &spec, &err));
    assert_int_equal(259, spec.tokens.count);
    char *json = tokenizer_write(&spec, &bytes);
    tokenizer_spec_free(&spec);
    word_counts_free(&counts);
    return json;
}

static char *replace(const char *text, const char *from, const char *to) {
    const char *place = strstr(text, from);
    if (!place) fail_msg("'%s' is missing", from);
    size_t room = strlen(text) + strlen(to) + 1;
    char *changed = malloc(room);
    assert_non_null(changed);
    snprintf(changed, room, "%.*s%s%s", (int)(place - text), text, to, place + strlen(from));
    return changed;
}

static Tokenizer *accepted(const char *json) {
    Tokenizer *tokenizer = NULL;
    Error err = {0};
    if (!tokenizer_from_json(&tokenizer, json, strlen(json), &err)) fail_msg("%s", err.message);
    return tokenizer;
}

static void assert_refused(const char *json, const char *message) {
    Tokenizer *tokenizer = NULL;
    Error err = {0};
    if (tokenizer_from_json(&tokenizer, json, strlen(json), &err))
        fail_msg("accepted, instead of: %s", message);
    assert_int_equal(EXIT_DATA, err.exit_code);
    if (!strstr(err.message, message)) fail_msg("'%s' is missing in: %s", message, err.message);
}

static void what_is_not_honoured_is_refused_by_its_field(void **state) {
    (void)state;
    static const struct {
        SplitKind split;
        const char *from, *to, *message;
    } cases[] = {
        {SPLIT_GPT2, "\"truncation\": null", "\"truncation\": {\"max_length\": 5}",
         "truncation is {\"max_length\":5}, which this program does not honour"},
        {SPLIT_GPT2, "\"padding\": null", "\"padding\": {}", "padding is {}"},
        {SPLIT_GPT2, "\"version\"", "\"colour\": 1, \"version\"", "colour is 1"},
        {SPLIT_GPT2, "\"normalizer\": null", "\"normalizer\": {\"type\": \"Lowercase\"}",
         "normalizer is {\"type\":\"Lowercase\"}"},
        {SPLIT_GPT2, "\"normalizer\": null",
         "\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFKC\"}]}",
         "normalizer.normalizers is {\"type\":\"NFKC\"}"},
        {SPLIT_GPT2, "\"type\": \"ByteLevel\"", "\"type\": \"Metaspace\"", "pre_tokenizer is {"},
        {SPLIT_GPT2, "\"use_regex\": true", "\"use_regex\": 1",
         "pre_tokenizer.use_regex is 1, which this program does not honour; it must be true"},
        {SPLIT_LLAMA3, "\"behavior\": \"Isolated\"", "\"behavior\": \"Removed\"",
         "pre_tokenizer.pretokenizers[0].behavior is \"Removed\""},
        {SPLIT_LLAMA3, "\"invert\": false", "\"invert\": true",
         "pre_tokenizer.pretokenizers[0].invert is true"},
        {SPLIT_LLAMA3, "\"add_prefix_space\": false", "\"add_prefix_space\": true",
         "pre_tokenizer.pretokenizers[1].add_prefix_space is true"},
        {SPLIT_LLAMA3, "(?!\\\\S)", "(?<!\\\\S)",
         "pre_tokenizer.pretokenizers[0].pattern: '(?<!\\S)|\\s+' at byte"},
        {SPLIT_LLAMA3, "\\\\s*[", "\\\\h*[", "'\\h*[\\r\\n]+"},
        {SPLIT_LLAMA3, "{1,3}", "{1,3}+", "possessive to the other"},
        {SPLIT_LLAMA3, "|\\\\s+\"", "|\\\\s*\"", "may match the empty text"},
        {SPLIT_LLAMA3, "|\\\\s+\"", "|[a&&b]\"", "a class in a class"},
        {SPLIT_LLAMA3, "|\\\\s+\"", "|^a\"", "the border of a line"},
        {SPLIT_LLAMA3, "|\\\\s+\"", "|(a\"", "at byte"},
        {SPLIT_LLAMA3, "|\\\\s+\"", "|\\\\p{Quux}+\"", "at byte"},
        {SPLIT_GPT2, "\"post_processor\": null", "\"post_processor\": {\"type\": \"Odd\"}",
         "post_processor is {\"type\":\"Odd\"}"},
        {SPLIT_GPT2, "\"decoder\": {\n    \"type\": \"ByteLevel\"",
         "\"decoder\": {\n    \"type\": \"WordPiece\"", "decoder is {\"type\":\"WordPiece\""},
        {SPLIT_GPT2, "\"type\": \"BPE\"", "\"type\": \"Unigram\"", "model.type is \"Unigram\""},
        {SPLIT_GPT2, "\"dropout\": null", "\"dropout\": 0.1", "model.dropout is 0.1"},
        {SPLIT_GPT2, "\"byte_fallback\": false", "\"byte_fallback\": true",
         "model.byte_fallback is true"},
        {SPLIT_GPT2, "\"end_of_word_suffix\": null", "\"end_of_word_suffix\": \"</w>\"",
         "model.end_of_word_suffix is \"</w>\""},
        {SPLIT_GPT2, "\"continuing_subword_prefix\": null", "\"continuing_subword_prefix\": \"##\"",
         "model.continuing_subword_prefix is \"##\""},
        {SPLIT_GPT2, "\"single_word\": false", "\"single_word\": true",
         "added_tokens[0].single_word is true"},
        {SPLIT_GPT2, "\"lstrip\": false", "\"lstrip\": 0", "added_tokens[0].lstrip is 0"},
        {SPLIT_GPT2, "\"content\": \"<|e|>\"", "\"content\": \"\"", "added_tokens[0] is {"},
        {SPLIT_GPT2, "\"added_tokens\": [",
         "\"added_tokens\": [{\"id\":300,\"content\":\"<x>\"},{\"id\":300,\"content\":\"<y>\"},",
         "id 300 belongs to '<y>' and to another token; write"},
        {SPLIT_GPT2, "\"added_tokens\": [",
         "\"added_tokens\": [{\"id\":300,\"content\":\"<x>\"},{\"id\":301,\"content\":\"<x>\"},",
         "added_tokens has '<x>' twice; write"},
        {SPLIT_GPT2, "\"id\": 0", "\"id\": 7", "added_tokens[0]: '<|e|>' has id 7, which contra"},
        {SPLIT_GPT2, "\"content\": \"<|e|>\"", "\"content\": \"<x>\"",
         "added_tokens[0]: '<x>' has id 0"},
        {SPLIT_GPT2, "\"id\": 0", "\"id\": -1", "the id of token '<|e|>' is -1"},
        {SPLIT_GPT2, "\"aa\": 257", "\"aa\": 99999999", "the id of token 'aa' is 99999999"},
        {SPLIT_GPT2, "\"aa\": 257", "\"aa\": 258", "model.vocab gives id 258 to 'aaa' and"},
        {SPLIT_GPT2, "\"aa\": 257", "\"aa\": 257, \"aa\": 257", "duplicate object key"},
        {SPLIT_GPT2, "\"aa\": 257", "\"aa\": \"x\"", "the id of token 'aa' is \"x\""},
        {SPLIT_GPT2, "\"b\": 66", "\"bb\": 66", "has no token for byte 0x62"},
        {SPLIT_GPT2, "\"aaa\": 258", "\"aab\": 258",
         "model.merges[1] is [\"aa\",\"a\"], which this program does not honour; a merge is two"},
        {SPLIT_GPT2, "\"merges\": [", "\"merges\": [\"a  a\",", "model.merges[0] is \"a  a\""},
        {SPLIT_GPT2, "\"merges\": [", "\"merges\": [[\"a\"],", "model.merges[0] is [\"a\"]"},
        {SPLIT_GPT2, "\"merges\": [", "\"merges\": 1, \"x\": [", "model.x is [["},
        {SPLIT_GPT2, "\"vocab\": {", "\"vocab\": 3, \"x\": {", "model.x is {"},
        {SPLIT_GPT2, "\"version\"", "version", "line 2, column"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *json = sound_json(cases[i].split);
        char *changed = replace(json, cases[i].from, cases[i].to);
        assert_refused(changed, cases[i].message);
        free(changed);
        free(json);
    }
    assert_refused("[1]", "is [1]");
    assert_refused("{}", "pre_tokenizer is missing");
    assert_refused("", "line 1");
}

static void what_changes_no_token_is_accepted(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"\"type\": \"BPE\",", ""}, // as the oldest files have it
        {"\"unk_token\": null", "\"unk_token\": \"<|e|>\""},
        {"\"continuing_subword_prefix\": null", "\"continuing_subword_prefix\": \"\""},
        {"\"dropout\": null", "\"dropout\": 0.0"},
        {"\"trim_offsets\": true", "\"trim_offsets\": false"},
        {"\"post_processor\": null", "\"post_processor\": {\"type\": \"ByteLevel\"}"},
        {"\"normalizer\": null", "\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": []}"},
        {"\"added_tokens\": [", "\"added_tokens\": [{\"id\": 300, \"content\": \"\xE4\xB8\xAD\"},"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *json = sound_json(SPLIT_GPT2);
        char *changed = replace(json, cases[i][0], cases[i][1]);
        tokenizer_free(accepted(changed));
        free(changed);
        free(json);
    }
}

static void a_tokenizer_keeps_its_file_and_says_what_it_does_not_apply(void **state) {
    (void)state;
    char *json = sound_json(SPLIT_QWEN2);
    char *changed = replace(json, "\"post_processor\": null",
                            "\"post_processor\": {\"type\": \"TemplateProcessing\"}");
    Tokenizer *tokenizer = accepted(changed);
    assert_string_equal(changed, tokenizer->json);
    assert_int_equal(strlen(changed), tokenizer->json_bytes);
    assert_string_equal("TemplateProcessing", tokenizer->post_processor);
    assert_true(tokenizer->nfc);
    assert_int_equal(259, tokenizer->size);
    tokenizer_free(tokenizer);
    free(changed);
    free(json);
}

static void a_number_between_tokens_stands_for_nothing(void **state) {
    (void)state;
    char *json = sound_json(SPLIT_GPT2);
    char *changed = replace(json, "\"aaa\": 258", "\"aaa\": 260");
    Tokenizer *tokenizer = accepted(changed);
    size_t bytes = 9;
    assert_int_equal(261, tokenizer->size);
    tokenizer_decode(tokenizer, 259, &bytes);
    assert_int_equal(0, bytes);
    tokenizer_free(tokenizer);
    free(changed);
    free(json);
}

// ---- ranks of tiktoken --------------------------------------------------------------------------

static void ranks_that_are_damaged_are_refused_with_their_line(void **state) {
    (void)state;
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"AA== 1\n", "line 1: rank 1 where 0 is next"},
        {"AA== 0\nAA== 1\n", "line 2: 'AA== 1' is no new token"},
        {"AA== 0\r\nA 1\n", "line 2: 'A 1' is no new token and rank"},
        {"AA==0\n", "line 1: 'AA==0'"},
        {"AA== \n", "line 1: 'AA== '"},
        {"AA== 0x\n", "line 1: 'AA== 0x'"},
        {"AA== 99999999999999999999\n", "line 1: 'AA== 9999"},
        {"=A== 0\n", "line 1: '=A== 0'"},
        {"==== 0\n", "line 1: '==== 0'"},
        {"AA== 0\n", "no token for byte 0x01"},
        {"\n\n", "no token for byte 0x00"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        TokenizerSpec spec = {0};
        Error err = {0};
        assert_false(
            tiktoken_file_read(cases[i].text, strlen(cases[i].text), SPLIT_GPT2, "", &spec, &err));
        assert_int_equal(EXIT_DATA, err.exit_code);
        if (!strstr(err.message, cases[i].message))
            fail_msg("'%s' is missing in: %s", cases[i].message, err.message);
    }
}

static void a_file_is_known_by_its_content(void **state) {
    (void)state;
    char path[64];
    snprintf(path, sizeof path, "tokenizer-%d.txt", (int)getpid());
    FILE *out = fopen(path, "wb");
    assert_non_null(out);
    fputs("AA== 0\n", out);
    assert_int_equal(0, fclose(out));
    Tokenizer *tokenizer = NULL;
    Error err = {0};
    assert_false(tokenizer_read(&tokenizer, path, NULL, &err));
    assert_non_null(strstr(err.message, "is no tokenizer.json; if it holds ranks"));
    assert_memory_equal(path, err.message, strlen(path));
    assert_false(tokenizer_read(&tokenizer, path, "gpt2", &err));
    assert_non_null(strstr(err.message, "no token for byte 0x01"));
    unlink(path);
    assert_false(tokenizer_read(&tokenizer, path, NULL, &err));
    assert_int_equal(EXIT_DATA, err.exit_code);
}

// ---- training -----------------------------------------------------------------------------------

static void special_tokens_are_different_words(void **state) {
    (void)state;
    static const char *const wrong[] = {"a,a", ",", "a,", "a,,b", "\xFF"};
    WordCounts counts = {0};
    TokenizerSpec spec = {0};
    Error err = {0};
    for (int i = 0; i < 5; i++) {
        assert_false(bpe_train(&counts, 300, SPLIT_GPT2, wrong[i], &spec, &err));
        assert_int_equal(EXIT_CONFIG, err.exit_code);
    }
    assert_false(bpe_train(&counts, 257, SPLIT_GPT2, "<s>,</s>", &spec, &err));
    assert_non_null(strstr(err.message, "take at least 258"));
    assert_true(bpe_train(&counts, 300, SPLIT_GPT2, "", &spec, &err)); // and a text without pairs
    assert_int_equal(256, spec.tokens.count);
    tokenizer_spec_free(&spec);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_not_honoured_is_refused_by_its_field),
        cmocka_unit_test(what_changes_no_token_is_accepted),
        cmocka_unit_test(a_tokenizer_keeps_its_file_and_says_what_it_does_not_apply),
        cmocka_unit_test(a_number_between_tokens_stands_for_nothing),
        cmocka_unit_test(ranks_that_are_damaged_are_refused_with_their_line),
        cmocka_unit_test(a_file_is_known_by_its_content),
        cmocka_unit_test(special_tokens_are_different_words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
