// Tokens against those of the `tokenizers` library and of tiktoken, on texts that are hard to cut
// into words (make_tokenizer_fixtures.py), and the trainer against the library's.
#include "worker/tokenizer/tokenizer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "worker/data/file_reader.h"
#include "worker/tokenizer/bpe_train.h"
#include "worker/tokenizer/token_file.h"

#define FOLDER MOETRAIN_FIXTURES "/tokenizer/"

typedef struct Text {
    char *bytes;
    size_t count;
} Text;

static Text load(const char *name) {
    char path[512];
    snprintf(path, sizeof path, FOLDER "%s", name);
    FileReader file;
    Error err = {0};
    if (!file_reader_open(&file, path, &err)) fail_msg("%s", err.message);
    Text text = {malloc((size_t)file.bytes + 1), (size_t)file.bytes};
    assert_non_null(text.bytes);
    assert_true(file_reader_read(&file, 0, text.count, text.bytes, &err));
    text.bytes[text.count] = '\0';
    file_reader_close(&file);
    return text;
}

static Text repeat(const char *a, int a_times, const char *b, int b_times) {
    size_t a_bytes = strlen(a), b_bytes = strlen(b);
    Text text = {.count = a_bytes * (size_t)a_times + b_bytes * (size_t)b_times};
    text.bytes = malloc(text.count + 1);
    assert_non_null(text.bytes);
    for (int i = 0; i < a_times; i++) memcpy(text.bytes + (size_t)i * a_bytes, a, a_bytes);
    char *rest = text.bytes + (size_t)a_times * a_bytes;
    for (int i = 0; i < b_times; i++) memcpy(rest + (size_t)i * b_bytes, b, b_bytes);
    return text;
}

// A text of the fixtures, or one that is too long to be stored.
static Text text_of(const char *name) {
    if (strcmp(name, "long-letters") == 0) return repeat("ab", 3000, "", 0);
    if (strcmp(name, "long-line") == 0) return repeat("the cat sat ", 300, "", 0);
    if (strcmp(name, "long-same") == 0) return repeat("aaaa", 30001, "", 0);
    if (strcmp(name, "long-marks") == 0) return repeat("!?", 1000, "\n", 20000);
    if (strcmp(name, "long-spaces") == 0) {
        Text text = repeat(" ", 30001, "\t", 20000);
        text.bytes[30000] = 'x';
        return text;
    }
    return load(name);
}

static Tokenizer *read_tokenizer(const char *file, const char *pattern) {
    char path[512];
    snprintf(path, sizeof path, FOLDER "%s", file);
    Tokenizer *tokenizer = NULL;
    Error err = {0};
    if (!tokenizer_read(&tokenizer, path, pattern, &err)) fail_msg("%s", err.message);
    return tokenizer;
}

// The next token of a line; a run of equal ones counts down.
static bool next_token(const char **line, int32_t *token, int *left) {
    if (*left > 0) return --*left, true;
    char *end;
    if (**line != ' ') return false;
    *token = (int32_t)strtol(*line + 1, &end, 10);
    *left = *end == '*' ? (int)strtol(end + 1, &end, 10) - 1 : 0;
    *line = end;
    return true;
}

static void assert_line(Encoder *encoder, const char *tokenizer, const char *line) {
    char name[64];
    int length = (int)strcspn(line, " "), left = 0;
    snprintf(name, sizeof name, "%.*s", length, line);
    Text text = text_of(name);
    TokenList tokens = {0};
    Error err = {0};
    if (!encoder_encode(encoder, text.bytes, text.count, &tokens, &err))
        fail_msg("%s", err.message);
    int32_t expected = -1;
    int64_t place = 0;
    for (line += length; next_token(&line, &expected, &left); place++)
        if (place >= tokens.count || tokens.ids[place] != expected)
            fail_msg("%s on %s: token %lld is %d, expected %d", tokenizer, name, (long long)place,
                     place < tokens.count ? (int)tokens.ids[place] : -1, (int)expected);
    if (place != tokens.count)
        fail_msg("%s on %s: %lld tokens, expected %lld", tokenizer, name, (long long)tokens.count,
                 (long long)place);
    token_list_free(&tokens);
    free(text.bytes);
}

static void assert_tokens(const char *name, const char *file, const char *pattern) {
    char tokens_file[64];
    snprintf(tokens_file, sizeof tokens_file, "%s.tokens", name);
    Text lines = load(tokens_file);
    Tokenizer *tokenizer = read_tokenizer(file, pattern);
    Encoder *encoder = encoder_open(tokenizer);
    int count = 0;
    for (char *line = lines.bytes, *end; (end = strchr(line, '\n')); line = end + 1, count++) {
        *end = '\0';
        assert_line(encoder, name, line);
    }
    assert_true(count >= 17);
    encoder_close(encoder);
    tokenizer_free(tokenizer);
    free(lines.bytes);
}

static void the_patterns_of_the_field_give_the_tokens_of_the_library(void **state) {
    (void)state;
    assert_tokens("gpt2", "gpt2.json", NULL);
    assert_tokens("llama3", "llama3.json", NULL);
    assert_tokens("qwen2", "qwen2.json", NULL);
    assert_tokens("o200k", "o200k.json", NULL);
}

static void what_a_file_may_ask_for_gives_the_tokens_of_the_library(void **state) {
    (void)state;
    assert_tokens("whole", "whole.json", NULL);   // ignore_merges, merges as strings
    assert_tokens("prefix", "prefix.json", NULL); // add_prefix_space
    assert_tokens("stages", "stages.json", NULL); // several patterns, a string, digits
    assert_tokens("added", "added.json", NULL);   // lstrip, rstrip, normalized, a template
}

static void ranks_give_the_tokens_of_tiktoken(void **state) {
    (void)state;
    assert_tokens("ranks", "ranks.tiktoken", "llama3");
}

static const char *const TEXTS[] = {
    "categories.txt",   "emoji.txt",   "marks.txt",  "lines.txt", "controls.txt", "digits.txt",
    "contractions.txt", "scripts.txt", "spaces.txt", "code.txt",  "special.txt",  "invalid.bin"};
enum { TEXT_COUNT = sizeof TEXTS / sizeof *TEXTS };

static void every_text_comes_back(void **state) {
    (void)state;
    static const char *const files[] = {"gpt2.json", "llama3.json", "o200k.json", "stages.json"};
    for (int f = 0; f < 4; f++) {
        Tokenizer *tokenizer = read_tokenizer(files[f], NULL);
        Encoder *encoder = encoder_open(tokenizer);
        for (int i = 0; i < TEXT_COUNT; i++) {
            Text text = load(TEXTS[i]);
            TokenList tokens = {0};
            Error err = {0};
            assert_true(encoder_encode(encoder, text.bytes, text.count, &tokens, &err));
            size_t at = 0, bytes;
            for (int64_t t = 0; t < tokens.count; t++, at += bytes) {
                const uint8_t *piece = tokenizer_decode(tokenizer, tokens.ids[t], &bytes);
                assert_true(at + bytes <= text.count);
                assert_memory_equal(text.bytes + at, piece, bytes);
            }
            assert_int_equal(at, text.count);
            token_list_free(&tokens);
            free(text.bytes);
        }
        encoder_close(encoder);
        tokenizer_free(tokenizer);
    }
}

static void training_writes_the_file_of_the_library_with_any_number_of_threads(void **state) {
    (void)state;
    static const struct {
        const char *file;
        SplitKind split;
    } cases[] = {{"gpt2.json", SPLIT_GPT2},
                 {"llama3.json", SPLIT_LLAMA3},
                 {"qwen2.json", SPLIT_QWEN2},
                 {"o200k.json", SPLIT_O200K}};
    char paths[TEXT_COUNT - 1][512];
    const char *names[TEXT_COUNT - 1];
    for (int i = 0; i < TEXT_COUNT - 1; i++) { // all but the invalid one
        snprintf(paths[i], sizeof paths[i], FOLDER "%s", TEXTS[i]);
        names[i] = paths[i];
    }
    for (int c = 0; c < 4; c++)
        for (int threads = 1; threads <= 3; threads += 2) {
            WordCounts counts = {0};
            TokenizerSpec spec = {0};
            Error err = {0};
            assert_true(
                word_counts_read(&counts, names, TEXT_COUNT - 1, cases[c].split, threads, &err));
            assert_true(bpe_train(&counts, 700, cases[c].split, "<|endoftext|>", &spec, &err));
            size_t bytes;
            char *json = tokenizer_write(&spec, &bytes);
            Text expected = load(cases[c].file);
            size_t same = 0;
            while (same < bytes && same < expected.count && json[same] == expected.bytes[same])
                same++;
            if (same < bytes || same < expected.count)
                fail_msg("%s differs at byte %zu: '%.40s' instead of '%.40s'", cases[c].file, same,
                         json + same, expected.bytes + same);
            free(json);
            free(expected.bytes);
            word_counts_free(&counts);
            tokenizer_spec_free(&spec);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_patterns_of_the_field_give_the_tokens_of_the_library),
        cmocka_unit_test(what_a_file_may_ask_for_gives_the_tokens_of_the_library),
        cmocka_unit_test(ranks_give_the_tokens_of_tiktoken),
        cmocka_unit_test(every_text_comes_back),
        cmocka_unit_test(training_writes_the_file_of_the_library_with_any_number_of_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
