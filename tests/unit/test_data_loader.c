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

#include "kernels/utf8.h"

enum { SEED = 1337 };
static const Vocabulary numbers = {.format = DATA_UINT32, .size = 1 << 20};
static const Vocabulary halves = {.format = DATA_UINT16, .size = 1000, .bytes_per_token = 3.5};
static const Vocabulary bytes = {.format = DATA_BYTES, .size = 256, .bytes_per_token = 1.0};

static char path[64];

static void write_file(const void *content, size_t size) {
    snprintf(path, sizeof path, "data-%d.bin", (int)getpid());
    FILE *out = fopen(path, "wb");
    assert_non_null(out);
    assert_int_equal(size, fwrite(content, 1, size, out));
    assert_int_equal(0, fclose(out));
}

static int remove_file(void **state) {
    (void)state;
    unlink(path);
    return 0;
}

static DataFile *open_file(const Vocabulary *vocabulary) {
    DataFile *file = NULL;
    Error err = {0};
    if (!data_file_open(&file, path, PART_TRAINING, vocabulary, 0, 1, &err))
        fail_msg("%s", err.message);
    return file;
}

// A file whose token at position i is i, so that a window shows where it was cut.
static DataFile *open_counting_file(int64_t tokens) {
    uint32_t *content = malloc((size_t)tokens * sizeof *content);
    for (int64_t i = 0; i < tokens; i++) content[i] = (uint32_t)i;
    write_file(content, (size_t)tokens * sizeof *content);
    free(content);
    return open_file(&numbers);
}

static void assert_refused(const Vocabulary *vocabulary, const char *message_part) {
    DataFile *file = NULL;
    Error err = {0};
    assert_false(data_file_open(&file, path, PART_TRAINING, vocabulary, 0, 1, &err));
    assert_null(file);
    assert_int_equal(EXIT_DATA, err.exit_code);
    if (!strstr(err.message, message_part) || !strstr(err.message, path))
        fail_msg("'%s' or the path is missing in: %s", message_part, err.message);
}

static int64_t window_start(DataFile *file, uint64_t seed, DataCursor cursor, int64_t n,
                            int64_t T) {
    int32_t *inputs = malloc((size_t)T * sizeof *inputs),
            *targets = malloc((size_t)T * sizeof *targets);
    Error err = {0};
    if (!data_file_training_window(file, seed, cursor, n, T, inputs, targets, NULL, &err))
        fail_msg("%s", err.message);
    for (int64_t i = 0; i < T; i++) {
        assert_int_equal(inputs[0] + i, inputs[i]);
        assert_int_equal(inputs[0] + i + 1, targets[i]);
    }
    int64_t start = inputs[0];
    free(inputs);
    free(targets);
    return start;
}

static void an_epoch_visits_every_window_once(void **state) {
    (void)state;
    static const int64_t sizes[] = {2,  3,  4,   5,   6,   15,   16,   17,   18,   63,  64,
                                    65, 66, 100, 255, 257, 1000, 1023, 1025, 4097, 5000};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        DataFile *file = open_counting_file(sizes[s]);
        int64_t windows = data_file_windows(file, 1);
        assert_int_equal(sizes[s] - 1, windows);
        char *seen = calloc((size_t)windows, 1);
        for (int64_t i = 0; i < windows; i++) {
            int64_t start = window_start(file, SEED, (DataCursor){3, 0}, i, 1);
            assert_in_range(start, 0, windows - 1);
            assert_false(seen[start]);
            seen[start] = 1;
        }
        free(seen);
        data_file_close(file);
    }
}

static void windows_of_an_epoch_share_one_offset_and_fit(void **state) {
    (void)state;
    enum { T = 7, TOKENS = 7 * 40 + 3 };
    DataFile *file = open_counting_file(TOKENS);
    int64_t windows = data_file_windows(file, T);
    assert_int_equal((TOKENS - T) / T, windows);
    char offsets_seen[T] = {0};
    for (int64_t epoch = 0; epoch < 60; epoch++) {
        char seen[64] = {0};
        int64_t offset = window_start(file, SEED, (DataCursor){epoch, 0}, 0, T) % T;
        offsets_seen[offset] = 1;
        for (int64_t i = 0; i < windows; i++) {
            int64_t start = window_start(file, SEED, (DataCursor){epoch, i}, 0, T);
            assert_int_equal(offset, start % T);
            assert_in_range(start / T, 0, windows - 1);
            assert_false(seen[start / T]);
            seen[start / T] = 1;
        }
    }
    for (int i = 0; i < T; i++) assert_true(offsets_seen[i]);
    data_file_close(file);
}

static void the_order_is_random_and_differs_by_seed_and_epoch(void **state) {
    (void)state;
    DataFile *file = open_counting_file(1001);
    int by_seed = 0, by_epoch = 0, successors = 0;
    for (int64_t i = 0; i < 999; i++) {
        int64_t start = window_start(file, SEED, (DataCursor){0, i}, 0, 1);
        by_seed += start == window_start(file, SEED + 1, (DataCursor){0, i}, 0, 1);
        by_epoch += start == window_start(file, SEED, (DataCursor){1, i}, 0, 1);
        successors += start + 1 == window_start(file, SEED, (DataCursor){0, i + 1}, 0, 1);
    }
    // Each is a Poisson count of mean 1 for random orders; ten or more has a probability of 1e-7.
    assert_in_range(by_seed, 0, 9);
    assert_in_range(by_epoch, 0, 9);
    assert_in_range(successors, 0, 9);
    data_file_close(file);
}

static void the_cursor_wraps_into_the_next_epochs(void **state) {
    (void)state;
    DataCursor at = data_cursor_advance((DataCursor){2, 8}, 1, 10);
    assert_int_equal(2, at.epoch);
    assert_int_equal(9, at.index);
    at = data_cursor_advance((DataCursor){2, 8}, 2, 10);
    assert_int_equal(3, at.epoch);
    assert_int_equal(0, at.index);
    at = data_cursor_advance((DataCursor){0, 5}, 97, 10);
    assert_int_equal(10, at.epoch);
    assert_int_equal(2, at.index);

    DataFile *file = open_counting_file(100);
    int64_t windows = data_file_windows(file, 4);
    for (int64_t n = 0; n < 5 * windows; n++) {
        DataCursor cursor = data_cursor_advance((DataCursor){0, 3}, n, windows);
        assert_int_equal(window_start(file, SEED, cursor, 0, 4),
                         window_start(file, SEED, (DataCursor){0, 3}, n, 4));
    }
    data_file_close(file);
}

// Its tokens and targets; the number of them.
static int64_t read_window(DataFile *file, int64_t window, int64_t T, int32_t *inputs,
                           int32_t *targets) {
    Error err = {0};
    int64_t first = -1, count = -1;
    if (!data_file_evaluation_window(file, window, T, T, inputs, targets, NULL, &first, &count,
                                     &err))
        fail();
    assert_int_equal(0, first);
    return count;
}

static void every_token_but_the_first_is_a_target_of_one_evaluation_window(void **state) {
    (void)state;
    int32_t inputs[9], targets[9];
    const int64_t sizes[] = {1, 2, 8, 9, 10, 33, 64};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        DataFile *file = open_counting_file(sizes[s]);
        int64_t next = 1;
        for (int64_t w = 0; w < data_file_evaluation_windows(file, 8, 8); w++) {
            int64_t count = read_window(file, w, 8, inputs, targets);
            assert_in_range(count, 1, 8);
            for (int64_t i = 0; i < count; i++, next++) {
                assert_int_equal(next - 1, inputs[i]);
                assert_int_equal(next, targets[i]);
            }
            for (int64_t i = count; i < 8; i++) assert_int_equal(0, inputs[i] | targets[i]);
        }
        assert_int_equal(sizes[s], next);
        assert_int_equal(0, read_window(file, 9, 8, inputs, targets)); // behind the end
        data_file_close(file);
    }
}

static void a_window_longer_than_the_read_buffer_is_whole(void **state) {
    (void)state;
    DataFile *file = open_counting_file(50001);
    window_start(file, SEED, (DataCursor){0, 0}, 0, 20000);
    data_file_close(file);
}

static void a_file_too_short_for_the_context_has_no_windows(void **state) {
    (void)state;
    DataFile *file = open_counting_file(15);
    int32_t inputs[16], targets[16];
    Error err = {0};
    assert_int_equal(0, data_file_windows(file, 16));
    assert_int_equal(0, data_file_windows(file, 8));
    assert_int_equal(1, data_file_windows(file, 7));
    assert_false(data_file_training_window(file, SEED, (DataCursor){0, 0}, 0, 8, inputs, targets,
                                           NULL, &err));
    assert_int_equal(EXIT_DATA, err.exit_code);
    assert_non_null(strstr(err.message, "needs 16"));
    data_file_close(file);
}

static void each_format_gives_its_tokens_and_bytes_per_token(void **state) {
    (void)state;
    int32_t inputs[3], targets[3];
    const uint8_t raw[] = {0xFF, 0x00, 0x80, 0x01, 0x00, 0x00, 0x07, 0x00};
    write_file(raw, sizeof raw);
    DataFile *file = open_file(&bytes);
    assert_int_equal(8, data_file_tokens(file));
    assert_float_equal(1.0, data_file_bytes_per_token(file), 0.0);
    assert_int_equal(3, read_window(file, 0, 3, inputs, targets));
    assert_memory_equal(((int32_t[]){255, 0, 128}), inputs, sizeof inputs);
    assert_memory_equal(((int32_t[]){0, 128, 1}), targets, sizeof targets);
    data_file_close(file);

    const uint16_t pairs[] = {999, 0, 256, 7};
    write_file(pairs, sizeof pairs);
    file = open_file(&halves);
    assert_int_equal(4, data_file_tokens(file));
    assert_float_equal(3.5, data_file_bytes_per_token(file), 0.0);
    assert_int_equal(3, read_window(file, 0, 3, inputs, targets));
    assert_memory_equal(((int32_t[]){999, 0, 256}), inputs, sizeof inputs);
    data_file_close(file);

    int32_t points[] = {'a', 'b', 0x20AC};
    Vocabulary characters = {.format = DATA_CHARACTERS, .size = 3, .code_points = points};
    write_file("b\xE2\x82\xAC"
               "ab",
               6);
    file = open_file(&characters);
    assert_int_equal(4, data_file_tokens(file));
    assert_float_equal(1.5, data_file_bytes_per_token(file), 0.0);
    assert_int_equal(3, read_window(file, 0, 3, inputs, targets));
    assert_memory_equal(((int32_t[]){1, 2, 0}), inputs, sizeof inputs);
    assert_memory_equal(((int32_t[]){2, 0, 1}), targets, sizeof targets);
    data_file_close(file);
}

static void unusable_files_are_refused_with_the_reason(void **state) {
    (void)state;
    snprintf(path, sizeof path, "data-%d-missing", (int)getpid());
    assert_refused(&bytes, "No such file");
    assert_int_equal(0, mkdir(path, 0700));
    assert_refused(&bytes, "is a directory");
    assert_int_equal(0, rmdir(path));
    assert_int_equal(0, mkfifo(path, 0600)); // must not wait for a writer
    assert_refused(&bytes, "is a device or pipe");
    assert_int_equal(0, unlink(path));
    write_file("", 0);
    assert_refused(&bytes, "is empty");
    write_file("abc", 3);
    assert_refused(&halves, "3 bytes are not whole 2-byte tokens");
    assert_refused(&numbers, "3 bytes are not whole 4-byte tokens");
    if (geteuid() != 0) { // root may read everything
        assert_int_equal(0, chmod(path, 0));
        assert_refused(&bytes, "Permission denied");
    }
}

static void characters_outside_the_vocabulary_are_refused_with_their_place(void **state) {
    (void)state;
    int32_t points[] = {'a', 'b'};
    Vocabulary characters = {.format = DATA_CHARACTERS, .size = 2, .code_points = points};
    write_file("ab\xC3\xA4", 4);
    assert_refused(&characters, "(U+00E4) at byte 2");
    write_file("ab\xC3", 3);
    assert_refused(&characters, "byte 2 (0xC3)");
}

static void a_token_outside_the_vocabulary_is_found_by_the_reader_that_has_it(void **state) {
    (void)state;
    enum { TOKENS = 1000003, BAD = 700000, READERS = 4 };
    uint16_t *content = calloc(TOKENS, sizeof *content);
    content[BAD] = 1000;
    write_file(content, TOKENS * sizeof *content);
    free(content);
    for (int reader = 0; reader < READERS; reader++) {
        DataFile *file = NULL;
        Error err = {0};
        bool ok = data_file_open(&file, path, PART_TRAINING, &halves, reader, READERS, &err);
        assert_int_equal(reader != 2, ok);
        if (!ok) assert_non_null(strstr(err.message, "token 1000 at byte 1400000"));
        data_file_close(file);
    }
}

static void the_last_token_is_validated_too(void **state) {
    (void)state;
    enum { TOKENS = 1003 };
    uint16_t content[TOKENS] = {0};
    content[TOKENS - 1] = 65535;
    write_file(content, sizeof content);
    assert_refused(&halves, "token 65535 at byte 2004");
    DataFile *file = NULL;
    Error err = {0};
    assert_false(data_file_open(&file, path, PART_TRAINING, &halves, 3, 4,
                                &err)); // the last of four readers
    uint32_t wide[3] = {0, 1, UINT32_MAX};
    write_file(wide, sizeof wide);
    assert_refused(&numbers, "token 4294967295 at byte 8");
}

static void overlapping_windows_have_each_target_once_with_context(void **state) {
    (void)state;
    int32_t inputs[8], targets[8];
    const int64_t sizes[] = {1, 2, 8, 9, 10, 33, 64}, strides[] = {1, 3, 5, 7};
    Error err = {0};
    for (size_t s = 0; s < 7 * 4; s++) {
        int64_t size = sizes[s / 4], stride = strides[s % 4], next = 1, first, count;
        DataFile *file = open_counting_file(size);
        int64_t windows = data_file_evaluation_windows(file, 8, stride);
        for (int64_t w = 0; w < windows; w++) {
            assert_true(data_file_evaluation_window(file, w, 8, stride, inputs, targets, NULL,
                                                    &first, &count, &err));
            assert_in_range(count, first + 1, 8);
            assert_int_equal(w == 0 ? 0 : 8 - stride, first);
            assert_int_equal(next - 1 - first, inputs[0]);
            for (int64_t i = first; i < count; i++) assert_int_equal(next++, targets[i]);
        }
        assert_int_equal(size, next);
        assert_true(data_file_evaluation_window(file, windows, 8, stride, inputs, targets, NULL,
                                                &first, &count, &err));
        assert_int_equal(0, first);
        assert_int_equal(0, count); // behind the end
        data_file_close(file);
    }
}

static void a_file_that_changes_while_open_is_an_error_and_no_crash(void **state) {
    (void)state;
    int32_t inputs[100], targets[100];
    int64_t first, count;
    Error err = {0};
    DataFile *file = open_counting_file(1000);
    assert_int_equal(0, truncate(path, 3 * 100 * 4 + 10));
    assert_int_equal(100, read_window(file, 1, 100, inputs, targets));
    assert_false(data_file_evaluation_window(file, 3, 100, 100, inputs, targets, NULL, &first,
                                             &count, &err));
    assert_int_equal(EXIT_DATA, err.exit_code);
    assert_non_null(strstr(err.message, "ends at byte 1210 but had 4000"));
    char identity[40];
    assert_false(data_file_identity(file, identity, &err));

    uint32_t foreign[1000];
    memset(foreign, 0xFF, sizeof foreign);
    FILE *out = fopen(path, "r+b"); // the same inode, other content
    assert_int_equal(1000, fwrite(foreign, 4, 1000, out));
    assert_int_equal(0, fclose(out));
    assert_false(data_file_evaluation_window(file, 2, 100, 100, inputs, targets, NULL, &first,
                                             &count, &err));
    assert_non_null(strstr(err.message, "token 4294967295 at byte 800"));
    data_file_close(file);
}

static void characters_take_as_few_bytes_as_the_vocabulary_needs(void **state) {
    (void)state;
    static const int32_t sizes[] = {1, 2, 255, 256, 257, 300, 5000};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        enum {
            REPEATS = 40
        }; // over several pieces of the reader, with characters across their borders
        char *text = malloc((size_t)sizes[s] * 4 * REPEATS), *end = text;
        int64_t length = 0;
        for (int repeat = 0; repeat < REPEATS; repeat++)
            for (int32_t i = 0; i < sizes[s]; i++, length++) {
                char one[5]; // in descending order, so that numbers change when they are sorted
                int bytes_of_one = utf8_encode(0x4E00 + sizes[s] - 1 - i, one);
                memcpy(end, one, (size_t)bytes_of_one);
                end += bytes_of_one;
            }
        write_file(text, (size_t)(end - text));
        free(text);
        DataConfig config = {.format = DATA_CHARACTERS, .check = true};
        snprintf(config.train.maps[0].path, CONFIG_PATH_BYTES, "%s", path);
        Vocabulary vocabulary = {0};
        Error err = {0};
        assert_true(vocabulary_open(&vocabulary, &config, &err));
        assert_int_equal(sizes[s], vocabulary.size);
        assert_int_equal(sizes[s] <= 256 ? 1 : 2, vocabulary.text.width);
        assert_int_equal(length, vocabulary.text.count);
        // The training file is not read again; another file with the same content is.
        DataFile *first = open_file(&vocabulary), *second = NULL;
        vocabulary.text.path[0] = '\0';
        second = open_file(&vocabulary);
        DataFile *const files[] = {first, second};
        for (int f = 0; f < 2; f++) {
            assert_int_equal(length, data_file_tokens(files[f]));
            assert_float_equal(3.0, data_file_bytes_per_token(files[f]), 1e-12);
            for (int64_t i = 0; i < length - 1; i++) {
                int32_t input, target;
                assert_int_equal(1, read_window(files[f], i, 1, &input, &target));
                assert_int_equal(sizes[s] - 1 - i % sizes[s], input);
            }
        }
        data_file_close(first);
        data_file_close(second);
        vocabulary_free(&vocabulary);
    }
}

static void a_cursor_that_no_run_has_is_an_error_and_no_endless_walk(void **state) {
    (void)state;
    DataFile *file = open_counting_file(1000);
    int32_t inputs[4], targets[4];
    static const DataCursor wrong[] = {
        {0, -1}, {-1, 0}, {0, INT64_MIN}, {0, INT64_MAX}, {INT64_MAX, INT64_MAX}, {INT64_MIN, 5}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        Error err = {0};
        assert_false(
            data_file_training_window(file, SEED, wrong[i], 3, 4, inputs, targets, NULL, &err));
        assert_int_equal(EXIT_CHECKPOINT, err.exit_code);
    }
    // Past the epoch is legal: the same place in a file that has become fewer windows.
    assert_in_range(window_start(file, SEED, (DataCursor){0, 100000}, 0, 4), 0, 999);
    data_file_close(file);
}

static void identity_depends_on_size_and_content(void **state) {
    (void)state;
    char first[40], other[40];
    Error err = {0};
    const char *const contents[] = {"abcdefgh", "abcdefgh", "abcdefgi", "abcdefg"};
    for (int i = 0; i < 4; i++) {
        write_file(contents[i], strlen(contents[i]));
        DataFile *file = open_file(&bytes);
        assert_true(data_file_identity(file, i == 0 ? first : other, &err));
        assert_int_equal(32, strlen(first));
        if (i == 1) assert_string_equal(first, other);
        if (i > 1) assert_string_not_equal(first, other);
        data_file_close(file);
    }
}

static void identity_of_a_large_file_looks_at_head_middle_and_tail(void **state) {
    (void)state;
    enum { SIZE = 100 << 20 };
    char first[40], other[40];
    Error err = {0};
    write_file("", 0);
    assert_int_equal(0, truncate(path, SIZE)); // sparse
    DataFile *file = open_file(&bytes);
    assert_true(data_file_identity(file, first, &err));
    const long places[] = {0, SIZE / 2, SIZE - 1};
    for (int i = 0; i < 3; i++) {
        FILE *out = fopen(path, "r+b");
        assert_int_equal(0, fseek(out, places[i], SEEK_SET));
        assert_int_equal('x', fputc('x', out));
        assert_int_equal(0, fclose(out));
        assert_true(data_file_identity(file, other, &err));
        assert_string_not_equal(first, other);
        memcpy(first, other, sizeof first);
    }
    data_file_close(file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(an_epoch_visits_every_window_once, remove_file),
        cmocka_unit_test_teardown(windows_of_an_epoch_share_one_offset_and_fit, remove_file),
        cmocka_unit_test_teardown(the_order_is_random_and_differs_by_seed_and_epoch, remove_file),
        cmocka_unit_test_teardown(the_cursor_wraps_into_the_next_epochs, remove_file),
        cmocka_unit_test_teardown(every_token_but_the_first_is_a_target_of_one_evaluation_window,
                                  remove_file),
        cmocka_unit_test_teardown(overlapping_windows_have_each_target_once_with_context,
                                  remove_file),
        cmocka_unit_test_teardown(a_window_longer_than_the_read_buffer_is_whole, remove_file),
        cmocka_unit_test_teardown(a_file_too_short_for_the_context_has_no_windows, remove_file),
        cmocka_unit_test_teardown(each_format_gives_its_tokens_and_bytes_per_token, remove_file),
        cmocka_unit_test_teardown(unusable_files_are_refused_with_the_reason, remove_file),
        cmocka_unit_test_teardown(characters_outside_the_vocabulary_are_refused_with_their_place,
                                  remove_file),
        cmocka_unit_test_teardown(a_token_outside_the_vocabulary_is_found_by_the_reader_that_has_it,
                                  remove_file),
        cmocka_unit_test_teardown(the_last_token_is_validated_too, remove_file),
        cmocka_unit_test_teardown(a_file_that_changes_while_open_is_an_error_and_no_crash,
                                  remove_file),
        cmocka_unit_test_teardown(characters_take_as_few_bytes_as_the_vocabulary_needs,
                                  remove_file),
        cmocka_unit_test_teardown(a_cursor_that_no_run_has_is_an_error_and_no_endless_walk,
                                  remove_file),
        cmocka_unit_test_teardown(identity_depends_on_size_and_content, remove_file),
        cmocka_unit_test_teardown(identity_of_a_large_file_looks_at_head_middle_and_tail,
                                  remove_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
