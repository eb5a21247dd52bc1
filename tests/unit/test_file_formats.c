// Data files of other programs, made byte by byte: what is read of each, and what of a file that
// contradicts itself is said.
#include "worker/data/data_loader.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <zlib.h>
#include <zstd.h>

enum { ROOM = 1 << 16, MOST_BYTES = 1 << 20 };

static char folder[64];
static uint8_t out[ROOM];
static size_t used;

static int make_folder(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "formats-%d", (int)getpid());
    return mkdir(folder, 0700);
}

static int remove_folder(void **state) {
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return system(command);
}

static const char *path_of(const char *name) {
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

// ---- bytes --------------------------------------------------------------------------------------

static void begin(void) {
    used = 0;
}
static void put_bytes(const void *bytes, size_t count) {
    assert_true(used + count <= ROOM);
    memcpy(out + used, bytes, count);
    used += count;
}
static void put_text(const char *text) {
    put_bytes(text, strlen(text));
}
static void put(uint64_t number, size_t width) {
    put_bytes(&number, width); // little-endian, as every machine that this runs on
}
static void put_numbers(int count, size_t width) { // 0, 7, 14, …
    for (int i = 0; i < count; i++) put((uint64_t)i * 7, width);
}
static void end(const char *name) {
    FILE *file = fopen(path_of(name), "wb");
    assert_non_null(file);
    assert_int_equal(used, fwrite(out, 1, used, file));
    assert_int_equal(0, fclose(file));
}

// ---- asking -------------------------------------------------------------------------------------

static ContentRules rules_of(DataFormat format) {
    return (ContentRules){.format = format,
                          .recognise = true,
                          .documents = true,
                          .most_bytes = MOST_BYTES,
                          .jsonl_field = "text"};
}

static DataContent open_content(const char *name, DataFormat format, const FileFormat *is) {
    DataContent content = {0};
    Error err = {0};
    ContentRules rules = rules_of(format);
    if (!data_content_open(&content, path_of(name), &rules, &err)) fail_msg("%s", err.message);
    assert_string_equal(content.format->name, is->name);
    return content;
}

static void assert_numbers(const char *name, const FileFormat *is, int64_t tokens, int bytes,
                           int64_t documents) {
    DataContent content = open_content(name, DATA_TOKENS, is);
    assert_int_equal(tokens, content.tokens);
    assert_int_equal(bytes, content.type.bytes);
    assert_int_equal(documents, content.documents.count);
    data_content_close(&content);
    Vocabulary vocabulary = {.format = DATA_TOKENS, .size = 1000, .content = rules_of(DATA_TOKENS)};
    vocabulary.content.documents = documents > 0;
    DataFile *file = NULL;
    Error err = {0};
    if (!data_file_open(&file, path_of(name), PART_TRAINING, &vocabulary, 0, 1, &err))
        fail_msg("%s", err.message);
    int32_t inputs[4], targets[4];
    int64_t first, count;
    assert_true(
        data_file_evaluation_window(file, 0, 4, 4, inputs, targets, NULL, &first, &count, &err));
    for (int i = 0; i < 4; i++) {
        assert_int_equal(7 * i, inputs[i]);
        assert_int_equal(7 * (i + 1), targets[i]);
    }
    data_file_close(file);
}

static void assert_refused(const char *name, DataFormat format, const char *part,
                           const char *other) {
    DataContent content = {0};
    Error err = {0};
    ContentRules rules = rules_of(format);
    if (data_content_open(&content, path_of(name), &rules, &err))
        fail_msg("accepted, not: %s", part);
    assert_int_equal(EXIT_DATA, err.exit_code);
    if (!strstr(err.message, part) || !strstr(err.message, other) || !strstr(err.message, folder))
        fail_msg("'%s', '%s' or the path is missing in: %s", part, other, err.message);
}

static void assert_text(const char *name, const FileFormat *is, const char *text,
                        int64_t documents) {
    DataContent content = open_content(name, DATA_BYTES, is);
    char read[256] = "";
    Error err = {0};
    assert_int_equal(strlen(text), content.file.bytes);
    assert_true(file_reader_read(&content.file, 0, strlen(text), read, &err));
    assert_string_equal(text, read);
    assert_int_equal(documents, content.documents.count);
    data_content_close(&content);
}

// ---- NumPy --------------------------------------------------------------------------------------

static void put_array(int version, const char *header, int count, size_t width) {
    begin();
    put_bytes("\x93NUMPY", 6);
    put((uint64_t)version, 1);
    put(0, 1);
    put(strlen(header), version == 1 ? 2 : 4);
    put_text(header);
    put_numbers(count, width);
    end("a.npy");
}

static void numpy_arrays_are_read_in_every_version_and_width(void **state) {
    (void)state;
    put_array(1, "{'descr': '<u2', 'fortran_order': False, 'shape': (20,), }   \n", 20, 2);
    assert_numbers("a.npy", &NUMPY_ARRAY, 20, 2, 0);
    put_array(2, "{'descr': '<i4', 'fortran_order': False, 'shape': (4, 5), }\n", 20, 4);
    assert_numbers("a.npy", &NUMPY_ARRAY, 20, 4, 4);
    put_array(3, "{\"shape\":(20,),\"fortran_order\":True,\"descr\":\"<i8\"}", 20, 8);
    assert_numbers("a.npy", &NUMPY_ARRAY, 20, 8, 0);
    put_array(1, "{'descr': '|u1', 'fortran_order': False, 'shape': (20,)}", 20, 1);
    assert_numbers("a.npy", &NUMPY_ARRAY, 20, 1, 0);
}

static void numpy_arrays_that_are_something_else_are_refused(void **state) {
    (void)state;
    static const struct {
        int version;
        const char *header, *part, *other;
    } cases[] = {
        {1, "{'descr': '<u2', 'fortran_order': False, 'shape': (21,), }", "says 21", "40 bytes"},
        {1, "{'descr': '<u2', 'fortran_order': False, 'shape': (4, 6), }", "says 4 x 6", "40"},
        {1, "{'descr': '<u2', 'fortran_order': False, 'shape': (2, 2, 5), }", "3 dimensions", ""},
        {1, "{'descr': '<u2', 'fortran_order': False, 'shape': (), }", "0 dimensions", ""},
        {1, "{'descr': '<u2', 'fortran_order': True, 'shape': (4, 5), }", "Fortran", "column"},
        {1, "{'descr': '<f4', 'fortran_order': False, 'shape': (10,), }", "'<f4'", "whole numbers"},
        {1, "{'descr': '>u2', 'fortran_order': False, 'shape': (20,), }", "'>u2'", "convert it"},
        {1, "{'descr': [('a', '<u2')], 'fortran_order': False, 'shape': (20,)}", "its header", ""},
        {1, "{'descr': '<u2', 'shape': (20,), }", "its header", "numpy.save"},
        {1, "{'descr': '<u2', 'fortran_order': False, 'shape': (9999999999999999999,)}", "its", ""},
        {1, "{'descr': '<u8', 'fortran_order': False, 'shape': (4611686018427387904, 4)}",
         "says 4611686018427387904 x 4", "40"},
        {4, "{'descr': '<u2', 'fortran_order': False, 'shape': (20,), }", "version 4.0", "3.0"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put_array(cases[i].version, cases[i].header, 20, 2);
        assert_refused("a.npy", DATA_TOKENS, cases[i].part, cases[i].other);
    }
    put_array(1, "{'descr': '<u2', 'fortran_order': False, 'shape': (20,), }", 20, 2);
    assert_refused("a.npy", DATA_BYTES, "is a NumPy array", "set data.vocab_size");
    begin();
    put_bytes("\x93NUMPY\1\0\xFF\xFF{", 11);
    end("a.npy");
    assert_refused("a.npy", DATA_TOKENS, "has 65535 bytes", "1 follow");
    put_array(1, "{'descr': '<i2', 'fortran_order': False, 'shape': (4,), }", 0, 2);
    put_bytes("\x9C\xFF\1\0\2\0\3\0", 8);
    end("a.npy");
    Vocabulary vocabulary = {
        .format = DATA_TOKENS, .size = 1 << 17, .content = rules_of(DATA_TOKENS)};
    DataFile *file = NULL;
    Error err = {0};
    assert_false(data_file_open(&file, path_of("a.npy"), PART_TRAINING, &vocabulary, 0, 1, &err));
    assert_non_null(strstr(err.message, "token -100 at byte"));
    assert_non_null(strstr(err.message, "take such marks out"));
}

// ---- llm.c --------------------------------------------------------------------------------------

static void put_llmc(uint64_t magic, uint64_t version, uint64_t says, int count, size_t width) {
    begin();
    put(magic, 4);
    put(version, 4);
    put(says, 4);
    for (int i = 3; i < 256; i++) put(0, 4);
    put_numbers(count, width);
    end("a.bin");
}

static void token_numbers_of_llmc_are_read_with_either_header(void **state) {
    (void)state;
    put_llmc(20240520, 1, 20, 20, 2);
    assert_numbers("a.bin", &LLMC_TOKENS, 20, 2, 0);
    put_llmc(20240801, 7, 20, 20, 4);
    assert_numbers("a.bin", &LLMC_TOKENS, 20, 4, 0);
    put_llmc(20240520, 1, 21, 20, 2);
    assert_refused("a.bin", DATA_UINT16, "says 21 tokens of 2 bytes", "40 bytes follow");
    put_llmc(20240801, 7, 40, 40, 2);
    assert_refused("a.bin", DATA_UINT16, "says 40 tokens of 4 bytes", "80 bytes follow");
    put_llmc(20240520, 2, 20, 20, 2);
    assert_refused("a.bin", DATA_UINT16, "version 2", "version 1");
    put_llmc(20240520, 1, 0x80000000u, 20, 2);
    assert_refused("a.bin", DATA_UINT16, "says -2147483648 tokens", "40 bytes follow");
    used = 1000;
    end("a.bin");
    assert_refused("a.bin", DATA_UINT16, "1000 bytes", "1024");
}

// ---- Megatron -----------------------------------------------------------------------------------

typedef struct MegatronIndex {
    int code, sequences, documents;
    int32_t lengths[8];
    int64_t pointers[8], first[8];
    uint64_t version;
} MegatronIndex;

static void put_index(const MegatronIndex *index, int modes) {
    begin();
    put_bytes("MMIDIDX\0\0", 9);
    put(index->version, 8);
    put((uint64_t)index->code, 1);
    put((uint64_t)index->sequences, 8);
    put((uint64_t)index->documents, 8);
    put_bytes(index->lengths, 4 * (size_t)index->sequences);
    put_bytes(index->pointers, 8 * (size_t)index->sequences);
    put_bytes(index->first, 8 * (size_t)index->documents);
    for (int i = 0; i < modes; i++) put(0, 1);
    end("a.idx");
}

static void token_numbers_of_megatron_are_read_by_any_of_their_names(void **state) {
    (void)state;
    const MegatronIndex index = {8, 4, 3, {5, 7, 0, 8}, {0, 10, 24, 24}, {0, 2, 4}, 1};
    static const char *const names[] = {"a", "a.bin", "a.idx"};
    begin();
    put_numbers(20, 2);
    end("a.bin");
    for (int modes = 0; modes <= 4; modes += 4) {
        put_index(&index, modes);
        for (int i = 0; i < 3; i++) assert_numbers(names[i], &MEGATRON_INDEX, 20, 2, 2);
    }
    DataContent content = open_content("a", DATA_TOKENS, &MEGATRON_INDEX);
    assert_int_equal(0, content.documents.starts[0]);
    assert_int_equal(12, content.documents.starts[1]);
    data_content_close(&content);
    MegatronIndex wide = index;
    wide.code = 4;
    for (int i = 0; i < 4; i++) wide.pointers[i] *= 2;
    put_index(&wide, 0);
    begin();
    put_numbers(20, 4);
    end("a.bin");
    assert_numbers("a", &MEGATRON_INDEX, 20, 4, 2);
    // Documents of no sequence, more of them than sequences.
    const MegatronIndex empty = {8, 1, 4, {20}, {0}, {0, 0, 1, 1}, 1};
    put_index(&empty, 0);
    begin();
    put_numbers(20, 2);
    end("a.bin");
    assert_numbers("a", &MEGATRON_INDEX, 20, 2, 3);
}

static void an_index_that_contradicts_its_numbers_is_refused(void **state) {
    (void)state;
    const MegatronIndex right = {8, 4, 3, {5, 7, 0, 8}, {0, 10, 24, 24}, {0, 2, 4}, 1};
    begin();
    put_numbers(20, 2);
    end("a.bin");
    MegatronIndex index = right;
    index.version = 2;
    put_index(&index, 0);
    assert_refused("a", DATA_TOKENS, "version 2", "version 1");
    index = right, index.code = 7;
    put_index(&index, 0);
    assert_refused("a", DATA_TOKENS, "type 7 (float32)", "integers");
    index = right, index.code = 99;
    put_index(&index, 0);
    assert_refused("a", DATA_TOKENS, "type 99 (unknown)", "integers");
    index = right, index.pointers[1] = 12;
    put_index(&index, 0);
    assert_refused("a", DATA_TOKENS, "sequence 1 has 7 tokens from byte 12", "end at byte 10");
    index = right, index.lengths[3] = 9;
    put_index(&index, 0);
    assert_refused("a", DATA_TOKENS, "sequence 3 has 9 tokens", "of the 40 of");
    index = right, index.lengths[0] = -5;
    put_index(&index, 0);
    assert_refused("a", DATA_TOKENS, "sequence 0 has -5 tokens", "");
    index = right, index.lengths[3] = 7;
    put_index(&index, 0);
    assert_refused("a", DATA_TOKENS, "19 tokens of 2 bytes", "has 40 bytes");
    index = right, index.first[1] = 5;
    put_index(&index, 0);
    assert_refused("a", DATA_TOKENS, "document 1 begins with sequence 5", "there are 4");
    index = right, index.first[2] = 3;
    put_index(&index, 0);
    assert_refused("a", DATA_TOKENS, "document 2 begins with sequence 3", "there are 4");
    put_index(&right, 3); // modes for three of four sequences
    assert_refused("a", DATA_TOKENS, "4 sequences and 3 starts of documents need 106 bytes", "109");
    used = 20;
    end("a.idx");
    assert_refused("a", DATA_TOKENS, "20 bytes", "34");
    put_index(&right, 0);
    assert_int_equal(0, unlink(path_of("a.bin")));
    assert_refused("a", DATA_TOKENS, "a.bin", "No such file");
}

// ---- nanoGPT ------------------------------------------------------------------------------------

static void a_folder_of_nanogpt_has_a_file_for_each_part(void **state) {
    (void)state;
    assert_int_equal(0, mkdir(path_of("nano"), 0700));
    begin();
    put_numbers(20, 2);
    end("nano/train.bin");
    begin();
    put_numbers(12, 2);
    end("nano/val.bin");
    begin();
    put_text("\x80\4\x95never read");
    end("nano/meta.pkl");
    DataContent content = open_content("nano", DATA_TOKENS, &NUMBERS_WITHOUT_HEADER);
    assert_int_equal(20, content.tokens);
    data_content_close(&content);
    ContentRules rules = rules_of(DATA_TOKENS);
    rules.part = PART_VALIDATION;
    Error err = {0};
    assert_true(data_content_open(&content, path_of("nano"), &rules, &err));
    assert_int_equal(12, content.tokens);
    data_content_close(&content);
    assert_refused("nano", DATA_BYTES, "a folder of nanoGPT", "meta.pkl");
    assert_refused("nano", DATA_BYTES, "set data.vocab_size", "pickle.load");
    assert_refused("", DATA_BYTES, "is a directory", "name one file");
}

static void without_a_header_nothing_is_guessed(void **state) {
    (void)state;
    begin();
    put_numbers(20, 2);
    end("a.bin");
    assert_refused("a.bin", DATA_TOKENS, "no header", "set data.format=uint16 or uint32");
    DataContent content = open_content("a.bin", DATA_UINT16, &NUMBERS_WITHOUT_HEADER);
    assert_int_equal(20, content.tokens);
    data_content_close(&content);
    begin();
    put_text("In the beginning God created the heaven and the earth.");
    end("a.txt");
    assert_refused("a.txt", DATA_TOKENS, "is text", "data.format=bytes");
}

// ---- text ---------------------------------------------------------------------------------------

static const char LINES[] =
    "{\"id\": 1, \"text\": \"one\\n\"}\r\n"
    "\n"
    "  {\"text\": \"\", \"note\": \"empty\"}\n"
    "{\"text\": \"tw\\u00f6 \\ud83d\\ude00\", \"n\": 123456789012345678901}";
static const char LINES_TEXT[] = "one\ntw\xC3\xB6 \xF0\x9F\x98\x80\n";

static void put_gzip(const void *text, size_t bytes) {
    z_stream stream = {0};
    assert_int_equal(Z_OK, deflateInit2(&stream, 6, Z_DEFLATED, MAX_WBITS + 16, 8, 0));
    stream.next_in = (void *)(uintptr_t)text;
    stream.avail_in = (uInt)bytes;
    stream.next_out = out + used;
    stream.avail_out = (uInt)(ROOM - used);
    assert_int_equal(Z_STREAM_END, deflate(&stream, Z_FINISH));
    used += stream.total_out;
    deflateEnd(&stream);
}

static void put_zstd(const void *text, size_t bytes) {
    size_t written = ZSTD_compress(out + used, ROOM - used, text, bytes, 3);
    assert_false(ZSTD_isError(written));
    used += written;
}

static void json_lines_give_the_texts_of_their_documents(void **state) {
    (void)state;
    begin();
    put_text(LINES);
    end("a.jsonl");
    assert_text("a.jsonl", &JSON_LINES, LINES_TEXT, 2);
    DataContent content = open_content("a.jsonl", DATA_BYTES, &JSON_LINES);
    assert_int_equal(0, content.documents.starts[0]);
    assert_int_equal(4, content.documents.starts[1]);
    data_content_close(&content);
    assert_refused("a.jsonl", DATA_TOKENS, "is JSON lines", "leave data.format");
    // Neither of these is a line of JSON.
    static const char *const texts[] = {"{ int main(void); }\n", "{\n\"a\": 1\n}\n", "\"a\": 1\n",
                                        "{\"a\n\": 1}\n"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        begin();
        put_text(texts[i]);
        end("a.txt");
        assert_text("a.txt", &PLAIN_TEXT, texts[i], 0);
    }
}

static void lines_without_the_text_are_refused_by_number(void **state) {
    (void)state;
    static const struct {
        const char *second, *part, *other;
    } cases[] = {
        {"{\"content\": \"a\", \"title\": \"b\"}", "line 2 has no field 'text'",
         "'content', 'title'"},
        {"{\"text\": 5}", "line 2 has no text in its field 'text'", "data.jsonl_field"},
        {"{\"text\": \"a\"", "line 2 is no JSON object", "data.format=bytes"},
        {"[\"text\"]", "line 2 is no object", "data.format=bytes"},
        {"{\"text\": \"a\xFF\"}", "line 2 is no JSON object", "byte 0xff"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        begin();
        put_text("{\"text\": \"one\"}\n");
        put_text(cases[i].second);
        put_text("\n");
        end("a.jsonl");
        assert_refused("a.jsonl", DATA_BYTES, cases[i].part, cases[i].other);
    }
    begin();
    put_text("{\"text\": \"\"}\n");
    end("a.jsonl");
    assert_refused("a.jsonl", DATA_BYTES, "without a text", "");
}

static void compressed_text_and_lines_are_read(void **state) {
    (void)state;
    static const char text[] = "In the beginning God created the heaven and the earth.\n";
    size_t half = 20, all = sizeof text - 1;
    begin();
    put_gzip(text, half);
    put_gzip(text + half, all - half); // a second member
    end("a.gz");
    assert_text("a.gz", &GZIP_TEXT, text, 0);
    assert_refused("a.gz", DATA_TOKENS, "compressed with gzip", "gunzip");
    used -= 5;
    end("a.gz");
    assert_refused("a.gz", DATA_BYTES, "it ends at byte", "cut off");
    out[used / 2] ^= 0xFF;
    end("a.gz");
    assert_refused("a.gz", DATA_BYTES, "gzip", "again");
    begin();
    put_gzip(LINES, sizeof LINES - 1);
    end("a.gz");
    assert_text("a.gz", &GZIP_TEXT, LINES_TEXT, 2);

    begin();
    put_zstd(text, half);
    put_zstd(text + half, all - half);
    end("a.zst");
    assert_text("a.zst", &ZSTD_TEXT, text, 0);
    used -= 5;
    end("a.zst");
    assert_refused("a.zst", DATA_BYTES, "it ends at byte", "cut off");
    out[4] ^= 0xFF;
    end("a.zst");
    assert_refused("a.zst", DATA_BYTES, "zstd", "again");
    begin();
    put_zstd(LINES, sizeof LINES - 1);
    end("a.zst");
    assert_text("a.zst", &ZSTD_TEXT, LINES_TEXT, 2);
}

static void what_expands_too_much_is_refused_with_its_sizes(void **state) {
    (void)state;
    size_t bytes = 3 * (size_t)MOST_BYTES;
    char *text = malloc(bytes);
    assert_non_null(text);
    memset(text, 'a', bytes);
    begin();
    put_gzip(text, bytes);
    end("a.gz");
    assert_refused("a.gz", DATA_BYTES, "expand to more than 1 MiB", "data.expand_limit");
    begin();
    put_zstd(text, bytes);
    end("a.zst");
    assert_refused("a.zst", DATA_BYTES, "expand to more than 1 MiB", "data.expand_limit");
    memcpy(text, "{\"text\": \"", 10); // a line without an end
    begin();
    put_gzip(text, bytes);
    end("a.gz");
    assert_refused("a.gz", DATA_BYTES, "expand to more than 1 MiB", "data.expand_limit");
    free(text);
    uint8_t any[4096];
    for (uint32_t i = 0; i < 4096; i++) any[i] = (uint8_t)(i * 2654435761u >> 13);
    begin();
    put_gzip(any, sizeof any);
    end("a.gz");
    assert_refused("a.gz", DATA_BYTES, "binary data, compressed", "gunzip");
    begin();
    put_gzip("", 0);
    end("a.gz");
    assert_refused("a.gz", DATA_BYTES, "its content is empty", "");
}

int main(void) {
#define IN_A_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)
    const struct CMUnitTest tests[] = {
        IN_A_FOLDER(numpy_arrays_are_read_in_every_version_and_width),
        IN_A_FOLDER(numpy_arrays_that_are_something_else_are_refused),
        IN_A_FOLDER(token_numbers_of_llmc_are_read_with_either_header),
        IN_A_FOLDER(token_numbers_of_megatron_are_read_by_any_of_their_names),
        IN_A_FOLDER(an_index_that_contradicts_its_numbers_is_refused),
        IN_A_FOLDER(a_folder_of_nanogpt_has_a_file_for_each_part),
        IN_A_FOLDER(without_a_header_nothing_is_guessed),
        IN_A_FOLDER(json_lines_give_the_texts_of_their_documents),
        IN_A_FOLDER(lines_without_the_text_are_refused_by_number),
        IN_A_FOLDER(compressed_text_and_lines_are_read),
        IN_A_FOLDER(what_expands_too_much_is_refused_with_its_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
