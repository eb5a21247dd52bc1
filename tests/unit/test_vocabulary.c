#include "worker/data/vocabulary.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "worker/tokenizer/bpe_train.h"

static DataConfig config_of(DataFormat format) {
    DataConfig config = {.format = format};
    snprintf(config.train.maps[0].path, CONFIG_PATH_BYTES, "vocabulary-%d.txt", (int)getpid());
    return config;
}

static DataConfig config_with_text(const char *text, size_t bytes) {
    DataConfig config = config_of(DATA_CHARACTERS);
    FILE *out = fopen(config.train.maps[0].path, "wb");
    assert_non_null(out);
    assert_int_equal(bytes, fwrite(text, 1, bytes, out));
    assert_int_equal(0, fclose(out));
    return config;
}

static void assert_refused(const DataConfig *config, int exit_code, const char *message_part) {
    Vocabulary vocabulary;
    Error err = {0};
    assert_false(vocabulary_open(&vocabulary, config, &err));
    assert_int_equal(exit_code, err.exit_code);
    if (!strstr(err.message, message_part))
        fail_msg("'%s' is missing in: %s", message_part, err.message);
    unlink(config->train.maps[0].path);
}

static void assert_round_trip(const Vocabulary *vocabulary, const char *text) {
    int32_t tokens[64];
    int64_t count = 0;
    Error err = {0};
    char decoded[256], piece[32];
    size_t used = 0, bytes;
    assert_true(vocabulary_encode(vocabulary, text, tokens, 64, &count, &err));
    for (int64_t i = 0; i < count; i++) {
        const char *token = vocabulary_decode(vocabulary, tokens[i], piece, &bytes);
        memcpy(decoded + used, token, bytes);
        used += bytes;
    }
    assert_int_equal(strlen(text), used);
    assert_memory_equal(text, decoded, used);
}

static void the_file_name_decides_the_format_when_nothing_else_does(void **state) {
    (void)state;
    Vocabulary vocabulary;
    Error err = {0};
    DataConfig config = {.format = DATA_AUTO, .train.maps[0].path = "x.txt"};
    assert_true(vocabulary_open(&vocabulary, &config, &err)); // bytes need no look at the file
    assert_int_equal(DATA_BYTES, vocabulary.format);
    assert_int_equal(256, vocabulary.size);
    config = (DataConfig){.format = DATA_AUTO, .train.maps[0].path = "x.bin", .vocab_size = 50257};
    assert_true(vocabulary_open(&vocabulary, &config, &err));
    assert_int_equal(DATA_UINT16, vocabulary.format);
    assert_int_equal(50257, vocabulary.size);
}

static void files_of_numbers_need_a_vocabulary_size_that_fits(void **state) {
    (void)state;
    DataConfig config = config_of(DATA_UINT16);
    assert_refused(&config, EXIT_CONFIG, "data.vocab_size is 0");
    config.vocab_size = 65537;
    assert_refused(&config, EXIT_CONFIG, "65536");
    config = config_of(DATA_UINT32);
    config.vocab_size = (int64_t)1 << 31;
    assert_refused(&config, EXIT_CONFIG, "2147483647");
}

static void a_vocabulary_size_that_contradicts_the_text_is_refused(void **state) {
    (void)state;
    DataConfig config = config_of(DATA_BYTES);
    config.vocab_size = 65;
    assert_refused(&config, EXIT_CONFIG, "vocabulary of 256");
    config = config_with_text("abc", 3);
    config.vocab_size = 4;
    assert_refused(&config, EXIT_CONFIG, "vocabulary of 3");
}

static void characters_are_the_sorted_code_points_of_the_text(void **state) {
    (void)state;
    const char text[] = "b\xC3\xA4 \xE2\x82\xAC"
                        "a\xF0\x9F\x99\x82"
                        "ab\n";
    DataConfig config = config_with_text(text, strlen(text));
    Vocabulary vocabulary, copy;
    Error err = {0};
    assert_true(vocabulary_open(&vocabulary, &config, &err));
    const int32_t wanted[] = {'\n', ' ', 'a', 'b', 0xE4, 0x20AC, 0x1F642};
    assert_int_equal(7, vocabulary.size);
    assert_memory_equal(wanted, vocabulary.code_points, sizeof wanted);
    assert_int_equal(5, vocabulary_find(&vocabulary, 0x20AC));
    assert_int_equal(-1, vocabulary_find(&vocabulary, 'z'));
    assert_round_trip(&vocabulary, text);

    assert_true(vocabulary_from_checkpoint(&copy, &config, saved_vocabulary(0),
                                           vocabulary.code_points, vocabulary.size, vocabulary.size,
                                           &err));
    vocabulary_free(&vocabulary);
    assert_round_trip(&copy, text);
    vocabulary_free(&copy);
    unlink(config.train.maps[0].path);
}

static void malformed_utf8_is_refused_with_its_offset(void **state) {
    (void)state;
    static const struct {
        const char *text;
        const char *message;
    } cases[] = {
        {"ab\x80", "byte 2 (0x80)"},               // continuation without a lead
        {"a\xC3", "byte 1 (0xC3)"},                // cut off
        {"a\xC3(", "byte 1 (0xC3)"},               // not continued
        {"\xC0\xAF", "byte 0 (0xC0)"},             // overlong, two bytes
        {"\xE0\x9F\xBF", "byte 0 (0xE0)"},         // overlong, three bytes
        {"\xF0\x8F\xBF\xBF", "byte 0 (0xF0)"},     // overlong, four bytes
        {"ok\xED\xA0\x80", "byte 2 (0xED)"},       // surrogate
        {"\xF4\x90\x80\x80", "byte 0 (0xF4)"},     // past U+10FFFF
        {"\xF8\x88\x80\x80\x80", "byte 0 (0xF8)"}, // five bytes
        {"\xFF", "byte 0 (0xFF)"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        DataConfig config = config_with_text(cases[i].text, strlen(cases[i].text));
        assert_refused(&config, EXIT_DATA, cases[i].message);
    }
}

static void the_edges_of_utf8_are_accepted(void **state) {
    (void)state;
    const char text[] = "\x7F\xC2\x80\xDF\xBF\xE0\xA0\x80\xED\x9F\xBF\xEE\x80\x80\xEF\xBF\xBF"
                        "\xF0\x90\x80\x80\xF4\x8F\xBF\xBF";
    DataConfig config = config_with_text(text, strlen(text));
    Vocabulary vocabulary;
    Error err = {0};
    assert_true(vocabulary_open(&vocabulary, &config, &err));
    assert_int_equal(9, vocabulary.size);
    assert_round_trip(&vocabulary, text);
    vocabulary_free(&vocabulary);
    unlink(config.train.maps[0].path);
}

static void missing_empty_and_odd_training_texts_are_refused(void **state) {
    (void)state;
    DataConfig config = config_of(DATA_CHARACTERS);
    assert_refused(&config, EXIT_DATA, "No such file");
    config = config_with_text("", 0);
    assert_refused(&config, EXIT_DATA, "is empty");
    config = (DataConfig){.format = DATA_CHARACTERS, .train.maps[0].path = "."};
    assert_refused(&config, EXIT_DATA, "is a directory");
}

static void text_outside_the_vocabulary_is_refused_by_name(void **state) {
    (void)state;
    const int32_t code_points[] = {'a', 'b'};
    DataConfig config = {.format = DATA_CHARACTERS};
    Vocabulary vocabulary;
    int32_t tokens[4];
    int64_t count = 0;
    Error err = {0};
    assert_true(vocabulary_from_checkpoint(&vocabulary, &config, saved_vocabulary(0), code_points,
                                           2, 2, &err));
    assert_false(vocabulary_encode(&vocabulary, "ab\xC3\xA4", tokens, 4, &count, &err));
    assert_int_equal(EXIT_CONFIG, err.exit_code);
    assert_non_null(strstr(err.message, "'\xC3\xA4' (U+00E4)"));
    assert_false(vocabulary_encode(&vocabulary, "a\x80", tokens, 4, &count, &err));
    assert_non_null(strstr(err.message, "0x80"));
    assert_false(vocabulary_encode(&vocabulary, "ababa", tokens, 4, &count, &err));
    assert_non_null(strstr(err.message, "more than 4 tokens"));
    assert_true(vocabulary_encode(&vocabulary, "", tokens, 4, &count, &err));
    assert_int_equal(0, count);
    vocabulary_free(&vocabulary);
}

static void tokens_without_text_are_written_as_numbers(void **state) {
    (void)state;
    Vocabulary vocabulary = {.format = DATA_UINT16, .size = 100};
    assert_round_trip(&vocabulary, "0 17 99 ");
    int32_t tokens[4];
    int64_t count = 0;
    Error err = {0};
    assert_true(vocabulary_encode(&vocabulary, "  5 \n\t6\r\n", tokens, 4, &count, &err));
    assert_int_equal(2, count);
    assert_int_equal(6, tokens[1]);
    const char *const wrong[] = {"100", "-1", "x", "1x", "99999999999999999999", "1,2"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_false(vocabulary_encode(&vocabulary, wrong[i], tokens, 4, &count, &err));
        assert_non_null(strstr(err.message, "from 0 to 99"));
    }
}

static void a_checkpoint_whose_vocabulary_contradicts_itself_is_refused(void **state) {
    (void)state;
    static const int32_t good[] = {'a', 'b', 0x20AC}, twice[] = {'a', 'a', 'b'},
                         low[] = {-1, 'a', 'b'}, high[] = {'a', 'b', 0x110000};
    const struct {
        DataConfig config;
        const int32_t *code_points;
        int64_t size;
        bool legal;
    } cases[] = {
        {{.format = DATA_BYTES}, NULL, 256, true},
        {{.format = DATA_BYTES}, NULL, 65, false}, // bytes would index what is behind the table
        {{.format = DATA_BYTES}, good, 3, false},
        {{.format = DATA_CHARACTERS}, good, 3, true},
        {{.format = DATA_CHARACTERS}, NULL, 256, false}, // nothing to copy
        {{.format = DATA_CHARACTERS}, twice, 3, false},
        {{.format = DATA_CHARACTERS}, low, 3, false},
        {{.format = DATA_CHARACTERS}, high, 3, false},
        {{.format = DATA_UINT16, .vocab_size = 100}, NULL, 100, true},
        {{.format = DATA_UINT16, .vocab_size = 101}, NULL, 100, false},
        {{.format = DATA_UINT16}, NULL, 65537, false},
        {{.format = DATA_UINT32, .vocab_size = 70000}, NULL, 70000, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Vocabulary vocabulary = {0};
        Error err = {0};
        const int32_t *points = cases[i].code_points;
        bool ok = vocabulary_from_checkpoint(&vocabulary, &cases[i].config,
                                             points ? saved_vocabulary(0) : NULL, points,
                                             points ? cases[i].size : 0, cases[i].size, &err);
        assert_int_equal(cases[i].legal, ok);
        if (!ok) assert_int_equal(EXIT_CHECKPOINT, err.exit_code);
        vocabulary_free(&vocabulary);
    }
}

// The bytes as tokens, in a file of that name.
static void write_tokenizer(const char *path) {
    TokenizerSpec spec = {0};
    WordCounts none = {0};
    Error err = {0};
    size_t bytes;
    assert_true(bpe_train(&none, 300, SPLIT_GPT2, "<s>", &spec, &err));
    char *json = tokenizer_write(&spec, &bytes);
    FILE *out = fopen(path, "wb");
    assert_non_null(out);
    assert_int_equal(bytes, fwrite(json, 1, bytes, out));
    assert_int_equal(0, fclose(out));
    free(json);
    tokenizer_spec_free(&spec);
}

static void a_checkpoint_keeps_the_tokenizer(void **state) {
    (void)state;
    Vocabulary vocabulary, copy = {0};
    Error err = {0};
    DataConfig config = {.vocab_size = 264};
    snprintf(config.tokenizer, sizeof config.tokenizer, "tokenizer-%d.json", (int)getpid());
    write_tokenizer(config.tokenizer);
    assert_true(vocabulary_open(&vocabulary, &config, &err));
    unlink(config.tokenizer);
    assert_int_equal(DATA_TOKENIZER, vocabulary.format);
    assert_int_equal(264, vocabulary.size); // of which 257 stand for something
    assert_round_trip(&vocabulary, "a <s>\xC3\xA9\xFF");

    const void *data;
    int64_t count;
    const SavedVocabulary *saved = vocabulary_saved(&vocabulary, &data, &count);
    assert_string_equal("data/tokenizer", saved->name);
    static const int64_t sizes[] = {264, 257, 256};
    for (int i = 0; i < 3; i++) {
        bool ok = vocabulary_from_checkpoint(&copy, &config, saved, data, count, sizes[i], &err);
        assert_int_equal(sizes[i] >= 257, ok);
        if (!ok) assert_int_equal(EXIT_CHECKPOINT, err.exit_code);
        if (ok) assert_round_trip(&copy, "a <s>\xC3\xA9\xFF");
        char scratch[32];
        size_t bytes = 9;
        if (ok) vocabulary_decode(&copy, (int32_t)sizes[i] - 1, scratch, &bytes);
        if (ok) assert_int_equal(sizes[i] == 264 ? 0 : 1, bytes);
        vocabulary_free(&copy);
    }
    assert_false(vocabulary_from_checkpoint(&copy, &config, saved, data, count - 9, 264, &err));
    assert_false(vocabulary_from_checkpoint(&copy, &config, NULL, NULL, 0, 264, &err));
    assert_false(
        vocabulary_from_checkpoint(&copy, &config, saved_vocabulary(0), "abcd", 1, 264, &err));
    vocabulary_free(&vocabulary);
}

static void only_bytes_that_are_asked_for_by_name_may_be_anything(void **state) {
    (void)state;
    Vocabulary vocabulary;
    Error err = {0};
    DataConfig config = {.format = DATA_AUTO, .train.maps[0].path = "x.txt", .check = true};
    assert_true(vocabulary_open(&vocabulary, &config, &err));
    assert_true(vocabulary.content.recognise);
    config.format = DATA_BYTES;
    assert_true(vocabulary_open(&vocabulary, &config, &err));
    assert_false(vocabulary.content.recognise);
    config = (DataConfig){.format = DATA_UINT16, .vocab_size = 9, .check = false};
    assert_true(vocabulary_open(&vocabulary, &config, &err));
    assert_false(vocabulary.content.recognise);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_file_name_decides_the_format_when_nothing_else_does),
        cmocka_unit_test(files_of_numbers_need_a_vocabulary_size_that_fits),
        cmocka_unit_test(a_vocabulary_size_that_contradicts_the_text_is_refused),
        cmocka_unit_test(characters_are_the_sorted_code_points_of_the_text),
        cmocka_unit_test(malformed_utf8_is_refused_with_its_offset),
        cmocka_unit_test(the_edges_of_utf8_are_accepted),
        cmocka_unit_test(missing_empty_and_odd_training_texts_are_refused),
        cmocka_unit_test(text_outside_the_vocabulary_is_refused_by_name),
        cmocka_unit_test(tokens_without_text_are_written_as_numbers),
        cmocka_unit_test(a_checkpoint_whose_vocabulary_contradicts_itself_is_refused),
        cmocka_unit_test(a_checkpoint_keeps_the_tokenizer),
        cmocka_unit_test(only_bytes_that_are_asked_for_by_name_may_be_anything),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
