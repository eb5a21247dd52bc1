// Where documents begin, of every kind of file: the places of tokens, and the targets that are
// none.
#include "worker/data/data_loader.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "worker/data/megatron_index.h"
#include "worker/data/token_cache.h"
#include "worker/tokenizer/bpe_train.h"
#include "worker/tokenizer/tokenizer_write.h"

enum { ROOM = 4096 };

static char path[64], folder[64];

static int make_names(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "documents-%d", (int)getpid());
    snprintf(path, sizeof path, "documents-%d.bin", (int)getpid());
    return 0;
}

static int remove_files(void **state) {
    (void)state;
    char command[256];
    snprintf(command, sizeof command, "rm -rf %s documents-%d.*", folder, (int)getpid());
    return system(command);
}

static void write_file(const void *content, size_t bytes) {
    FILE *out = fopen(path, "wb");
    assert_non_null(out);
    assert_int_equal(bytes, fwrite(content, 1, bytes, out));
    assert_int_equal(0, fclose(out));
}

static Vocabulary vocabulary_of(DataFormat format, int64_t size, const char *end) {
    Vocabulary vocabulary = {.format = format,
                             .size = size,
                             .content = {.format = format,
                                         .recognise = true,
                                         .documents = true,
                                         .most_bytes = 1 << 20,
                                         .jsonl_field = "text"}};
    snprintf(vocabulary.content.document_end, sizeof vocabulary.content.document_end, "%s", end);
    return vocabulary;
}

static DataFile *open_file(const Vocabulary *vocabulary) {
    DataFile *file = NULL;
    Error err = {0};
    if (!data_file_open(&file, path, PART_TRAINING, vocabulary, 0, 1, &err))
        fail_msg("%s", err.message);
    return file;
}

// The file has documents of so many tokens, in windows of all of it and of a few tokens.
static void assert_documents(DataFile *file, const int64_t *lengths, int count) {
    bool begins[ROOM] = {0};
    int64_t tokens = 0;
    for (int i = 0; i < count; i++) {
        begins[tokens] = true;
        tokens += lengths[i];
    }
    assert_int_equal(tokens, data_file_tokens(file));
    int64_t widths[] = {tokens - 1, 3, 2, 1};
    for (int w = 0; w < 4; w++) {
        int32_t inputs[ROOM], targets[ROOM], positions[ROOM], place = 0;
        int64_t T = widths[w], first, own;
        Error err = {0};
        for (int64_t i = 0; i < data_file_evaluation_windows(file, T, T); i++) {
            assert_true(data_file_evaluation_window(file, i, T, T, inputs, targets, positions,
                                                    &first, &own, &err));
            for (int64_t t = 0; t < own; t++) {
                int64_t token = i * T + t;
                place = t == 0 || begins[token] ? 0 : place + 1;
                assert_int_equal(place, positions[t]);
                assert_int_equal(begins[token + 1], targets[t] == NO_TARGET);
                if (t + 1 < own && targets[t] >= 0) assert_int_equal(targets[t], inputs[t + 1]);
            }
            for (int64_t t = own; t < T; t++) assert_int_equal(t - own, positions[t]);
        }
    }
}

static void check_file(const Vocabulary *vocabulary, const int64_t *lengths, int count) {
    DataFile *file = open_file(vocabulary);
    assert_documents(file, lengths, count);
    data_file_close(file);
}

// The empty text is no document.
static const char LINES[] =
    "{\"text\": \"caf\xC3\xA9 a\"}\n{\"text\": \"\"}\n{\"text\": \"\\nb\\n\"}\n"
    "{\"text\": \"c a\xC3\xA9\"}\n";

static void documents_of_json_lines_are_known_in_bytes_and_characters(void **state) {
    (void)state;
    write_file(LINES, strlen(LINES));
    Vocabulary bytes = vocabulary_of(DATA_BYTES, 256, "");
    check_file(&bytes, (int64_t[]){8, 3, 6}, 3);
    bytes = vocabulary_of(DATA_BYTES, 256, "\\n--");
    check_file(&bytes, (int64_t[]){10, 6, 8}, 3);
    Vocabulary characters = vocabulary_of(DATA_CHARACTERS, 6, "");
    characters.code_points = (int32_t[]){'\n', ' ', 'a', 'b', 'c', 0xE9};
    characters.size = 6;
    Error err = {0};
    DataFile *file = NULL;
    assert_false(data_file_open(&file, path, PART_TRAINING, &characters, 0, 1, &err)); // no 'f'
    characters.code_points = (int32_t[]){'\n', ' ', 'a', 'b', 'c', 'f', 0xE9};
    characters.size = 7;
    check_file(&characters, (int64_t[]){7, 3, 5}, 3);
}

static void documents_of_text_are_parted_by_a_text(void **state) {
    (void)state;
    const char text[] = "a\n\nbb\n\n\n\nccc\nc\n\n";
    write_file(text, strlen(text));
    Vocabulary bytes = vocabulary_of(DATA_BYTES, 256, "\\n\\n");
    check_file(&bytes, (int64_t[]){3, 4, 2, 7}, 4);
    bytes = vocabulary_of(DATA_BYTES, 256, "");
    DataFile *file = NULL;
    Error err = {0};
    assert_false(data_file_open(&file, path, PART_TRAINING, &bytes, 0, 1, &err));
    assert_int_equal(EXIT_CONFIG, err.exit_code);
    assert_non_null(strstr(err.message, "nothing says where its documents begin"));
    // Ends that lie across the pieces in which a text is searched.
    enum { LONG = (1 << 17) + 100 };
    static char room[LONG + 1];
    memset(room, 'x', LONG);
    memcpy(room + (1 << 17) - 2, "<end>", 5);
    memcpy(room + 50, "<end>", 5);
    write_file(room, LONG);
    Vocabulary marked = vocabulary_of(DATA_BYTES, 256, "<end>");
    file = open_file(&marked);
    const DocumentStarts *found = &data_file_content(file)->documents;
    assert_int_equal(3, found->count);
    assert_int_equal(55, found->starts[1]);
    assert_int_equal((1 << 17) + 3, found->starts[2]);
    data_file_close(file);
}

static void documents_of_numbers_are_parted_by_a_token(void **state) {
    (void)state;
    const uint16_t numbers[] = {1, 2, 9, 9, 3, 4, 5, 9, 6, 7};
    write_file(numbers, sizeof numbers);
    Vocabulary ends = vocabulary_of(DATA_UINT16, 10, "9");
    check_file(&ends, (int64_t[]){3, 1, 4, 2}, 4);
    DataFile *file = open_file(&ends);
    DataContent content = *data_file_content(file);
    Error err = {0};
    assert_true(data_content_find_marks(&content, &err));
    assert_int_equal(4, content.documents.count);
    assert_int_equal(8, content.documents.starts[3]);
    documents_free(&content.documents);
    data_file_close(file);
    ends = vocabulary_of(DATA_UINT16, 10, "<|endoftext|>");
    assert_false(data_file_open(&file, path, PART_TRAINING, &ends, 0, 1, &err));
    assert_int_equal(EXIT_CONFIG, err.exit_code);
    assert_non_null(strstr(err.message, "name the number of the token"));
    // llm.c's begin with GPT-2's end of text.
    uint16_t llmc[512 + 6] = {0};
    memcpy(llmc, (int32_t[]){20240520, 1, 6}, 12);
    memcpy(llmc + 512, (uint16_t[]){50256, 1, 2, 50256, 3, 4}, 12);
    write_file(llmc, sizeof llmc);
    Vocabulary begins = vocabulary_of(DATA_UINT16, 50257, "");
    check_file(&begins, (int64_t[]){3, 3}, 2);
    begins = vocabulary_of(DATA_UINT16, 50257, "4"); // who knows better
    check_file(&begins, (int64_t[]){6}, 1);
}

static void an_index_of_megatron_is_read_as_it_was_written(void **state) {
    (void)state;
    const uint16_t numbers[] = {1, 2, 9, 9, 3, 4, 5, 9, 6, 7};
    int64_t starts[] = {0, 3, 4, 9};
    DocumentStarts documents = {.count = 4, .starts = starts};
    Error err = {0};
    write_file(numbers, sizeof numbers);
    assert_true(megatron_index_write(path, &documents, 2, 10, &err));
    Vocabulary vocabulary = vocabulary_of(DATA_UINT16, 10, "");
    check_file(&vocabulary, (int64_t[]){3, 1, 5, 1}, 4);
    char index[CONFIG_PATH_BYTES];
    megatron_index_path(path, index);
    unlink(index);
}

static Tokenizer *new_tokenizer(void) {
    WordCounts counts = {0};
    TokenizerSpec spec = {0};
    Tokenizer *tokenizer = NULL;
    Error err = {0};
    size_t bytes;
    const char *text = path;
    assert_true(word_counts_read(&counts, &text, 1, SPLIT_GPT2, 1, &err));
    assert_true(bpe_train(&counts, 262, SPLIT_GPT2, "<|e|>", &spec, &err));
    char *json = tokenizer_write(&spec, &bytes);
    assert_true(tokenizer_from_json(&tokenizer, json, bytes, &err));
    free(json);
    word_counts_free(&counts);
    tokenizer_spec_free(&spec);
    return tokenizer;
}

// Each document's tokens are those of its text alone, kept in memory and in a file.
static void a_tokenizer_takes_each_document_alone(void **state) {
    (void)state;
    // Two line breaks between the first and the second document, which one token would join.
    static const char learned[] = "caf\xC3\xA9 caf\xC3\xA9 \n\nb\n\n\n\n\n";
    write_file(learned, strlen(learned));
    Tokenizer *tokenizer = new_tokenizer();
    write_file(LINES, strlen(LINES));
    static const char *const texts[2][3] = {
        {"caf\xC3\xA9 a\n", "\nb\n", "c a\xC3\xA9\n"},
        {"caf\xC3\xA9 a<|e|>", "\nb\n<|e|>", "c a\xC3\xA9<|e|>"}};
    for (int end = 0; end < 2; end++) {
        Vocabulary vocabulary = vocabulary_of(DATA_TOKENIZER, tokenizer->size, end ? "<|e|>" : "");
        vocabulary.tokenizer = tokenizer;
        TokenList all = {0};
        int64_t lengths[3], before = 0;
        Error err = {0};
        Encoder *encoder = encoder_open(tokenizer);
        for (int i = 0; i < 3; i++, before = all.count) {
            assert_true(encoder_encode(encoder, texts[end][i], strlen(texts[end][i]), &all, &err));
            lengths[i] = all.count - before;
        }
        encoder_close(encoder);
        for (int kept = 0; kept < 2; kept++) {
            if (kept) {
                DataContent text = {0};
                snprintf(vocabulary.token_folder, sizeof vocabulary.token_folder, "%s", folder);
                assert_true(data_content_open(&text, path, &vocabulary.content, &err));
                assert_true(
                    token_cache_make(tokenizer, &text.file, &text.documents, folder, NULL, &err));
                data_content_close(&text);
            }
            DataFile *file = open_file(&vocabulary);
            assert_int_equal(kept, data_file_content(file)->type.bytes > 0);
            assert_documents(file, lengths, 3);
            int32_t inputs[ROOM], targets[ROOM];
            int64_t first, own;
            assert_true(data_file_evaluation_window(file, 0, all.count - 1, all.count - 1, inputs,
                                                    targets, NULL, &first, &own, &err));
            for (int64_t i = 0; i < all.count - 1; i++) {
                assert_int_equal(all.ids[i], inputs[i]);
                assert_int_equal(all.ids[i + 1], targets[i]);
            }
            data_file_close(file);
        }
        token_list_free(&all);
    }
    tokenizer_free(tokenizer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(documents_of_json_lines_are_known_in_bytes_and_characters),
        cmocka_unit_test(documents_of_text_are_parted_by_a_text),
        cmocka_unit_test(documents_of_numbers_are_parted_by_a_token),
        cmocka_unit_test(an_index_of_megatron_is_read_as_it_was_written),
        cmocka_unit_test(a_tokenizer_takes_each_document_alone),
    };
    return cmocka_run_group_tests(tests, make_names, remove_files);
}
