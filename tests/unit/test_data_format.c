#include "worker/data/data_format.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char path[64];

static int remove_file(void **state) {
    (void)state;
    unlink(path);
    return 0;
}

static bool check(const void *content, size_t bytes, DataFormat format, Error *err) {
    snprintf(path, sizeof path, "format-%d.data", (int)getpid());
    FILE *out = fopen(path, "wb");
    assert_non_null(out);
    assert_int_equal(bytes, fwrite(content, 1, bytes, out));
    assert_int_equal(0, fclose(out));
    FileReader file;
    *err = (Error){0};
    assert_true(file_reader_open(&file, path, err));
    ContentSample *sample = content_sample_read(&file, err);
    assert_non_null(sample);
    bool ok = data_format_check(&file, sample, format, err);
    free(sample);
    file_reader_close(&file);
    return ok;
}

static void assert_accepted(const char *what, const void *content, size_t bytes,
                            DataFormat format) {
    Error err;
    if (!check(content, bytes, format, &err)) fail_msg("%s: %s", what, err.message);
}

static void assert_refused(const void *content, size_t bytes, DataFormat format,
                           const char *message_part) {
    Error err;
    if (check(content, bytes, format, &err)) fail_msg("accepted, not: %s", message_part);
    assert_int_equal(EXIT_DATA, err.exit_code);
    if (!strstr(err.message, message_part))
        fail_msg("'%s' is missing in: %s", message_part, err.message);
}

// ---- files of other programs --------------------------------------------------------------------

static const DataFormat ALL_FORMATS[] = {DATA_BYTES, DATA_CHARACTERS, DATA_UINT16, DATA_UINT32};

static void files_of_other_programs_are_refused_by_name(void **state) {
    (void)state;
#define KNOWN(bytes, part)                                                                         \
    { bytes, sizeof(bytes) - 1, part }
    static const struct {
        const char *content;
        size_t bytes;
        const char *part;
    } cases[] = {
        KNOWN("PK\3\4\x14\0\0\0\0\0........................arr_0.npy", "a NumPy archive"),
        KNOWN("PK\3\4\0\0\0\0\0\0........................archive/data.pkl", "a PyTorch file"),
        KNOWN("PK\3\4\0\0\0\0\0\0........................letter.txt", "ZIP archive; unpack it"),
        KNOWN("BZh91AY&SY..........", "compressed with bzip2"),
        KNOWN("\xFD"
              "7zXZ\0..........",
              "compressed with xz"),
        KNOWN("\xC6\xD7\x34\1\3\0\0\0\x70\x17\0\0\0\0\0\0", "a model of llm.c"),
        KNOWN("\x89HDF\r\n\x1A\n........", "an HDF5 file"),
        KNOWN("MOETRAIN........", "a checkpoint of this program"),
        KNOWN("\x0A\0\0\0\0\0\0\0{\"a\": {}}  ....", "a safetensors file"),
        KNOWN("\x80\4\x95\x0A\0\0\0\0\0\0\0]q......", "a Python pickle"),
        KNOWN("PAR1................PAR1", "a Parquet table"),
        KNOWN("ARROW1\0\0............", "an Arrow file"),
        KNOWN("\xFF\xFF\xFF\xFF\x78\0\0\0\x10\0\0\0\0\0\x0A\0", "an Arrow stream"),
        KNOWN("%PDF-1.7 ..........", "a PDF document; extract its text"),
        KNOWN("\x7F"
              "ELF\2\1\1\0........",
              "a program (ELF)"),
        KNOWN("version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (size_t f = 0; f < sizeof ALL_FORMATS / sizeof *ALL_FORMATS; f++)
            assert_refused(cases[i].content, cases[i].bytes, ALL_FORMATS[f], cases[i].part);
    // In two bytes a token number may look like a byte-order mark: only texts are refused for it.
    for (size_t f = 0; f < 2; f++) {
        assert_refused("\xFF\xFEh\0i\0", 6, ALL_FORMATS[f], "text in UTF-16");
        assert_refused("\xFE\xFF\0h\0i", 6, ALL_FORMATS[f], "text in UTF-16");
        assert_refused("\xFF\xFE\0\0h\0\0\0", 8, ALL_FORMATS[f], "text in UTF-32");
    }
    assert_accepted("a token that is a mark", "\xFF\xFEh\0i\0", 6, DATA_UINT16);
}

// ---- text and numbers ---------------------------------------------------------------------------

static void text_and_token_numbers_are_not_taken_for_each_other(void **state) {
    (void)state;
    const char english[] =
        "In the beginning God created the heaven and the earth. And the earth was";
    const char chinese[] =
        "\xE6\xBC\xA2\xE5\xAD\x97\xE6\xBC\xA2\xE5\xAD\x97\xE9\x80\x99\xE6\x98\xAF"
        "\xE4\xB8\xAD\xE6\x96\x87\xE6\xBC\xA2\xE5\xAD\x97";
    const char latin[] = "Gr\xF6\xDF"
                         "e und \xC7"
                         "a va, in einem Satz von fr\xFC"
                         "her";
    for (size_t f = 2; f < 4; f++) {
        assert_refused(english, sizeof english - 1, ALL_FORMATS[f],
                       "is text, but is read as token");
        assert_refused(chinese, sizeof chinese - 1, ALL_FORMATS[f], "is text");
        assert_refused(latin, sizeof latin - 1, ALL_FORMATS[f], "is text");
        assert_refused("ACGTTGCAACGTACGGTTCAACGT", 24, ALL_FORMATS[f], "is text");
    }
    for (size_t f = 0; f < 2; f++) {
        assert_accepted("English", english, sizeof english - 1, ALL_FORMATS[f]);
        assert_accepted("Chinese", chinese, sizeof chinese - 1, ALL_FORMATS[f]);
        assert_accepted("a byte-order mark of UTF-8", "\xEF\xBB\xBFhello", 8, ALL_FORMATS[f]);
        assert_accepted("documents between NULs", "one document of words\0another one of words\0",
                        43, ALL_FORMATS[f]);
        char documents[512];
        for (int i = 0; i < 512; i++) documents[i] = (char)(i % 32 == 31 ? 0 : 'a' + i % 7);
        assert_accepted("many documents", documents, sizeof documents, ALL_FORMATS[f]);
        assert_accepted("three bytes", "\0\1\2", 3, ALL_FORMATS[f]);
    }
    assert_accepted("Latin-1", latin, sizeof latin - 1, DATA_BYTES);
    const char colours[] = "\x1B[31mred\x1B[0m and \x1B[1mbold\x1B[0m";
    assert_accepted("colours of a terminal", colours, sizeof colours - 1, DATA_BYTES);
    uint8_t any[4096];
    for (uint32_t i = 0; i < 4096; i++) any[i] = (uint8_t)(i * 2654435761u >> 13);
    assert_refused(any, sizeof any, DATA_BYTES, "binary data, not text");
    assert_refused(any, sizeof any, DATA_BYTES, "data.format=bytes");
}

// ---- numbers of another width -------------------------------------------------------------------

enum { TOKENS = 3000 };

static uint32_t random_number;
static uint32_t draw(void) {
    random_number = random_number * 1664525u + 1013904223u;
    return random_number >> 8;
}

// Like the tokens of a text: small ones are frequent.
static uint32_t draw_token(uint32_t vocab_size) {
    uint32_t limit = 1u << draw() % 18;
    return draw() % (limit < vocab_size ? limit : vocab_size);
}

// Numbers of `width` bytes. Returns their bytes.
static size_t put(uint8_t *out, const uint32_t *tokens, size_t count, size_t width, bool big) {
    memset(out, 0, count * width);
    for (size_t i = 0; i < count; i++)
        for (size_t b = 0; b < 4 && b < width; b++)
            out[i * width + (big ? width - 1 - b : b)] = (uint8_t)(tokens[i] >> 8 * b);
    return count * width;
}

static void numbers_of_another_width_or_order_are_suspected(void **state) {
    (void)state;
    static uint32_t tokens[TOKENS];
    static uint8_t out[TOKENS * 8];
    static const uint32_t vocabularies[] = {65, 50257, 128256};
    for (int v = 0; v < 3; v++) {
        for (int i = 0; i < TOKENS; i++) tokens[i] = draw_token(vocabularies[v]);
        for (size_t count = 100; count <= TOKENS; count += TOKENS - 100) {
            if (v == 2 && count == 100) continue; // too little to say that 1 in a high half is none
            size_t bytes = put(out, tokens, count, 4, false);
            assert_refused(out, bytes, DATA_UINT16, "looks like int32");
            assert_refused(out, bytes, DATA_UINT16, "set data.format=uint32");
            assert_accepted("uint32", out, bytes, DATA_UINT32);
            bytes = put(out, tokens, count, 8, false);
            assert_refused(out, bytes, DATA_UINT16, "looks like int64");
            assert_refused(out, bytes, DATA_UINT32, "'<i8').astype('<u4')");
            bytes = put(out, tokens, count, 4, true);
            assert_refused(out, bytes, DATA_UINT16, "looks like big-endian int32");
            bytes = put(out, tokens, count, 8, true);
            assert_refused(out, bytes, DATA_UINT16, "looks like big-endian int64");
            if (v == 2) continue;
            bytes = put(out, tokens, count, 2, true);
            assert_refused(out, bytes, DATA_UINT16, "'>u2').astype('<u2')");
            bytes = put(out, tokens, count, 2, false);
            assert_accepted("uint16", out, bytes, DATA_UINT16);
            assert_refused(out, bytes, DATA_BYTES, "looks like token numbers (uint16)");
        }
    }
}

static void honest_numbers_pass_however_many_zeros_they_have(void **state) {
    (void)state;
    static uint32_t tokens[TOKENS];
    static uint8_t out[TOKENS * 8];
    for (int kind = 0; kind < 13; kind++) {
        for (uint32_t i = 0; i < TOKENS; i++) {
            uint32_t any = draw() % 50257, rare = draw() % 50 == 0 ? any : 0;
            uint32_t kinds[] = {0,
                                50256,
                                rare,
                                any,
                                i % 2 ? 0 : 7,
                                i % 32 < 16 ? any : 0,
                                i % 3 ? 0 : any,
                                draw() % 3,
                                i % 2 ? 0 : 1 + i / 2 % 4,
                                i % 2 ? draw() % 16 : any,               // a token and its kind
                                i % 2 ? draw() % 3 : draw() % 65,        // the same of few tokens
                                i % 2 ? draw() % 8 * 256 : draw() % 200, // often a zero low byte
                                0xA1A1 + draw() % 60 * 257};             // no control characters
            tokens[i] = kinds[kind];
        }
        for (size_t count = 1; count <= TOKENS; count = count * 3 + 1) {
            char what[64];
            snprintf(what, sizeof what, "kind %d, %zu tokens", kind, count);
            assert_accepted(what, out, put(out, tokens, count, 2, false), DATA_UINT16);
            assert_accepted(what, out, put(out, tokens, count, 4, false), DATA_UINT32);
        }
    }
    // Short files of few tokens in which every second one happens to be zero.
    for (int i = 0; i < 200; i++) {
        for (int t = 0; t < 24; t++) tokens[t] = t % 2 ? 0 : draw_token(50257);
        assert_accepted("24 tokens", out, put(out, tokens, 24, 2, false), DATA_UINT16);
    }
}

static void only_samples_of_a_large_file_are_looked_at(void **state) {
    (void)state;
    enum { LARGE = 5 << 20 };
    uint8_t *content = malloc(LARGE);
    for (size_t i = 0; i < LARGE; i += 4) {
        uint32_t token = draw_token(50257);
        memcpy(content + i, &token, 4);
    }
    assert_refused(content, LARGE, DATA_UINT16, "looks like int32");
    assert_refused(content, LARGE - 2, DATA_UINT16, "looks like int32");
    for (size_t i = 0; i < LARGE; i++) content[i] = (uint8_t)("etaoin shrdlu\n"[draw() % 14]);
    assert_refused(content, LARGE, DATA_UINT16, "is text");
    assert_accepted("text", content, LARGE, DATA_BYTES);
    free(content);
}

// ---- tokens outside the vocabulary --------------------------------------------------------------

static void assert_advice(const void *content, size_t bytes, DataFormat format, int64_t vocab_size,
                          int64_t token, const char *part) {
    Error err;
    char advice[512];
    FileReader file;
    check(content, bytes, format, &err);
    assert_true(file_reader_open(&file, path, &err));
    data_format_advise(&file, format, vocab_size, false, token, advice);
    if (strstr(advice, "data.vocab_size")) { // which a checkpoint leaves no choice in
        char other[512];
        data_format_advise(&file, format, vocab_size, true, token, other);
        assert_non_null(strstr(other, "cannot grow"));
    }
    file_reader_close(&file);
    if (!strstr(advice, part)) fail_msg("'%s' is missing in: %s", part, advice);
}

static void the_first_advice_for_a_foreign_token_is_the_likely_one(void **state) {
    (void)state;
    static uint32_t tokens[TOKENS];
    static uint8_t out[TOKENS * 8];
    for (int i = 0; i < TOKENS; i++) tokens[i] = draw() % 50257;
    size_t bytes = put(out, tokens, TOKENS, 2, false);
    assert_advice(out, bytes, DATA_UINT32, 128256, 900000, "set data.format=uint16");
    assert_advice(out, bytes, DATA_UINT16, 50256, 50256, "raise data.vocab_size, or check");
    assert_advice(out, bytes, DATA_UINT16, 65, 40000, "wrote the file, or raise");
    bytes = put(out, tokens, TOKENS, 2, true);
    assert_advice(out, bytes, DATA_UINT16, 50257, 65000, "big-endian");
    bytes = put(out, tokens, TOKENS, 4, true);
    assert_advice(out, bytes, DATA_UINT32, 50257, 1 << 24, "'>u4').astype('<u4')");
    tokens[5] = (uint32_t)-100;
    bytes = put(out, tokens, TOKENS, 4, false);
    assert_advice(out, bytes, DATA_UINT32, 50257, (uint32_t)-100, "as int32 it is -100");
    assert_advice("\xFF\xFEh\0i\0", 6, DATA_UINT16, 50257, 65279, "is text in UTF-16");
}

static void the_name_decides_only_when_the_format_is_automatic(void **state) {
    (void)state;
    DataConfig config = {.train.maps[0].path = "x.bin"};
    assert_int_equal(DATA_UINT16, data_format_resolve(&config));
    config.format = DATA_BYTES;
    assert_int_equal(DATA_BYTES, data_format_resolve(&config));
    config = (DataConfig){.train.maps[0].path = "x.bin.txt"};
    assert_int_equal(DATA_BYTES, data_format_resolve(&config));
    config.vocab_size = 65;
    assert_int_equal(DATA_TOKENS, data_format_resolve(&config));
    config = (DataConfig){.train.maps[0].path = "x.bin", .vocab_size = 128256};
    assert_int_equal(DATA_TOKENS, data_format_resolve(&config));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(files_of_other_programs_are_refused_by_name, remove_file),
        cmocka_unit_test_teardown(text_and_token_numbers_are_not_taken_for_each_other, remove_file),
        cmocka_unit_test_teardown(numbers_of_another_width_or_order_are_suspected, remove_file),
        cmocka_unit_test_teardown(honest_numbers_pass_however_many_zeros_they_have, remove_file),
        cmocka_unit_test_teardown(only_samples_of_a_large_file_are_looked_at, remove_file),
        cmocka_unit_test_teardown(the_first_advice_for_a_foreign_token_is_the_likely_one,
                                  remove_file),
        cmocka_unit_test(the_name_decides_only_when_the_format_is_automatic),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
