#include "worker/tokenizer/token_file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "worker/data/data_loader.h"
#include "worker/data/token_cache.h"
#include "worker/tokenizer/bpe_train.h"

enum { LINES = 1 << 15 };

static char text_path[64], tokens_path[64];

static int make_names(void **state) {
    (void)state;
    snprintf(text_path, sizeof text_path, "token-file-%d.txt", (int)getpid());
    snprintf(tokens_path, sizeof tokens_path, "token-file-%d.bin", (int)getpid());
    return 0;
}

static int remove_files(void **state) {
    (void)state;
    unlink(text_path);
    unlink(tokens_path);
    return 0;
}

static Tokenizer *tokenizer_of(SplitKind split) {
    WordCounts counts = {0};
    TokenizerSpec spec = {0};
    Tokenizer *tokenizer = NULL;
    Error err = {0};
    size_t bytes;
    const char *path = text_path;
    assert_true(word_counts_read(&counts, &path, 1, split, 1, &err));
    assert_true(bpe_train(&counts, 280, split, "<|e|>", &spec, &err));
    // And one that a cut before an indented line would tear: training takes each line by itself.
    TokenPair torn = {byte_strings_find(&spec.tokens, "\xC4\x8A", 2),
                      byte_strings_find(&spec.tokens, "\xC4\xA0", 2)};
    byte_strings_add(&spec.tokens, "\xC4\x8A\xC4\xA0", 4, NULL);
    for (int64_t i = 0; i < spec.merge_count; i++) {
        TokenPair next = spec.merges[i];
        spec.merges[i] = torn;
        torn = next;
    }
    char *json = tokenizer_write(&spec, &bytes);
    assert_true(tokenizer_from_json(&tokenizer, json, bytes, &err));
    free(json);
    word_counts_free(&counts);
    tokenizer_spec_free(&spec);
    return tokenizer;
}

// More than one piece of text, whose lines end and begin in every way; in the second case one line
// is longer than a piece.
static void write_text(bool long_line) {
    static const char *const lines[] = {
        "a word.\n", "Next, \n", " more\n\n", "\n  and\n",
        "X<|e|>\n",  "1999\n",   "it's\r\n",  "\xC3\xA9 e\xCC\x81\n",
        "\xFF\n",    "Yes\n"};
    FILE *out = fopen(text_path, "wb");
    assert_non_null(out);
    for (int i = 0; i < LINES; i++) {
        if (long_line) fputs("no line break here and every word the same, ", out);
        fputs(long_line ? "" : lines[(i * 7 + i / 10) % 10], out);
        if (!long_line) fputs("    which is indented, like most: no place to cut\n", out);
    }
    for (int i = 0; i < LINES / 2; i++) fputs("Behind it a line that begins with a letter\n", out);
    assert_int_equal(0, fclose(out));
}

static void a_text_in_pieces_has_the_tokens_of_the_whole(void **state) {
    (void)state;
    for (int round = 0; round < 2; round++) {
        write_text(round == 1);
        Tokenizer *tokenizer = tokenizer_of(round == 0 ? SPLIT_GPT2 : SPLIT_QWEN2);
        assert_true(tokenizer->known_pattern);
        FileReader text, written;
        Error err = {0};
        int64_t count = 0;
        assert_true(file_reader_open(&text, text_path, &err));
        assert_true(token_file_write(tokenizer, &text, NULL, tokens_path, NULL, &count, &err));
        assert_true(file_reader_open(&written, tokens_path, &err));
        assert_int_equal(2 * count, written.bytes);
        char *whole = malloc((size_t)text.bytes);
        uint16_t *tokens = malloc((size_t)written.bytes);
        assert_true(whole && tokens);
        assert_true(text.bytes > 1 << 20);
        assert_true(file_reader_read(&text, 0, (size_t)text.bytes, whole, &err));
        assert_true(file_reader_read(&written, 0, (size_t)written.bytes, tokens, &err));
        TokenList expected = {0};
        Encoder *encoder = encoder_open(tokenizer);
        assert_true(encoder_encode(encoder, whole, (size_t)text.bytes, &expected, &err));
        assert_int_equal(expected.count, count);
        for (int64_t i = 0; i < count; i++)
            if (expected.ids[i] != tokens[i]) fail_msg("token %lld differs", (long long)i);
        encoder_close(encoder);
        token_list_free(&expected);
        free(whole);
        free(tokens);
        file_reader_close(&text);
        file_reader_close(&written);
        tokenizer_free(tokenizer);
    }
}

// A run keeps the tokens in a file, evaluation in memory: windows and identity of the first are the
// same whoever opens it, and both have the same tokens.
static void tokens_in_a_file_are_those_in_memory(void **state) {
    (void)state;
    enum { T = 31 };
    char folder[64];
    snprintf(folder, sizeof folder, "token-file-%d", (int)getpid());
    write_text(false);
    Vocabulary vocabulary = {.format = DATA_TOKENIZER,
                             .tokenizer = tokenizer_of(SPLIT_LLAMA3),
                             .content = {.format = DATA_TOKENIZER}};
    vocabulary.size = vocabulary.tokenizer->size;
    DataFile *memory = NULL, *file = NULL;
    FileReader text;
    Error err = {0};
    DocumentStarts none = {0};
    char path[CONFIG_PATH_BYTES];
    assert_true(data_file_open(&memory, text_path, PART_TRAINING, &vocabulary, 0, 1, &err));
    snprintf(vocabulary.token_folder, sizeof vocabulary.token_folder, "%s", folder);
    assert_true(file_reader_open(&text, text_path, &err));
    assert_true(token_cache_make(vocabulary.tokenizer, &text, &none, folder, NULL, &err));
    assert_true(token_cache_path(vocabulary.tokenizer, &text, &none, folder, path, &err));
    assert_true(data_file_open(&file, text_path, PART_TRAINING, &vocabulary, 0, 1, &err));
    assert_string_equal(path, data_file_content(file)->file.path);
    assert_int_equal(data_file_tokens(memory), data_file_tokens(file));
    assert_true(data_file_bytes_per_token(memory) == data_file_bytes_per_token(file));
    assert_true(data_file_bytes_per_token(file) ==
                (double)text.bytes / (double)data_file_tokens(file));
    int32_t tokens[2][T], targets[2][T];
    int64_t windows = data_file_evaluation_windows(file, T, T), first[2], count[2];
    assert_int_equal(windows, data_file_evaluation_windows(memory, T, T));
    for (int64_t i = 0; i < windows; i++) {
        assert_true(data_file_evaluation_window(file, i, T, T, tokens[0], targets[0], NULL, first,
                                                count, &err));
        assert_true(data_file_evaluation_window(memory, i, T, T, tokens[1], targets[1], NULL,
                                                first + 1, count + 1, &err));
        assert_int_equal(first[0], first[1]);
        assert_int_equal(count[0], count[1]);
        assert_memory_equal(tokens[0], tokens[1], sizeof tokens[0]);
        assert_memory_equal(targets[0], targets[1], sizeof targets[0]);
    }
    data_file_close(memory);
    data_file_close(file);
    file_reader_close(&text);
    vocabulary_free(&vocabulary);
    unlink(path);
    rmdir(folder);
}

static void a_file_of_tokens_of_another_vocabulary_is_refused(void **state) {
    (void)state;
    static const struct {
        size_t bytes;
        const char *message;
    } cases[] = {{3, "3 bytes are not whole tokens of 2 bytes"},
                 {4, "token 65535 at byte 2 is outside the tokenizer's 281"}};
    static const uint16_t numbers[] = {5, 65535};
    write_text(false);
    Tokenizer *tokenizer = tokenizer_of(SPLIT_GPT2);
    for (int i = 0; i < 2; i++) {
        FILE *out = fopen(tokens_path, "wb"), *nowhere = tmpfile();
        assert_true(out && nowhere);
        assert_int_equal(cases[i].bytes, fwrite(numbers, 1, cases[i].bytes, out));
        assert_int_equal(0, fclose(out));
        FileReader tokens;
        Error err = {0};
        assert_true(file_reader_open(&tokens, tokens_path, &err));
        assert_false(token_file_decode(tokenizer, &tokens, nowhere, &err));
        assert_int_equal(EXIT_DATA, err.exit_code);
        if (!strstr(err.message, cases[i].message)) fail_msg("%s", err.message);
        file_reader_close(&tokens);
        fclose(nowhere);
    }
    tokenizer_free(tokenizer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_text_in_pieces_has_the_tokens_of_the_whole),
        cmocka_unit_test(tokens_in_a_file_are_those_in_memory),
        cmocka_unit_test(a_file_of_tokens_of_another_vocabulary_is_refused),
    };
    return cmocka_run_group_tests(tests, make_names, remove_files);
}
