// A file of rows holds whole rows, whatever was in it and whatever happens to it.
#include "worker/run/row_file.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

// Each test has an empty folder.
static char folder[64];
static char path[96], other[96];

static int make_folder(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/test_row_file.XXXXXX");
    if (!mkdtemp(folder)) return -1;
    snprintf(path, sizeof path, "%s/rows.jsonl", folder);
    snprintf(other, sizeof other, "%s/other", folder);
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    char command[80];
    snprintf(command, sizeof command, "rm -r '%s'", folder);
    return system(command);
}

static void put(const char *where, const char *content, size_t bytes) {
    FILE *file = fopen(where, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(content, 1, bytes, file), bytes);
    fclose(file);
}

static void assert_holds(const char *where, const char *wanted) {
    char content[4096];
    FILE *file = fopen(where, "rb");
    assert_non_null(file);
    content[fread(content, 1, sizeof content - 1, file)] = 0;
    fclose(file);
    assert_string_equal(content, wanted);
}

static RowFile *open_rows(int64_t last_step) {
    RowFile *rows = NULL;
    Error err = {0};
    if (!row_file_open(&rows, path, last_step, &err)) fail_msg("%s", err.message);
    return rows;
}

// What is left of `content` when it is opened for rows after step 10, and one is added.
static void assert_becomes(const char *content, size_t bytes, const char *wanted) {
    char whole[4096];
    put(path, content, bytes);
    RowFile *rows = open_rows(10);
    assert_holds(path, wanted);
    row_file_append(rows, "{\"step\":11}\n");
    row_file_close(rows);
    snprintf(whole, sizeof whole, "%s{\"step\":11}\n", wanted);
    assert_holds(path, whole);
}
#define ASSERT_BECOMES(content, wanted) assert_becomes(content, sizeof(content) - 1, wanted)

#define ROW_9  "{\"step\":9,\"loss\":1.5}\n"
#define ROW_10 "{\"step\":10,\"loss\":null}\n"
#define ROW_11 "{\"step\":11,\"loss\":1.25}\n"

static void only_whole_rows_up_to_the_step_are_kept(void **state) {
    (void)state;
    ASSERT_BECOMES("", "");
    ASSERT_BECOMES(ROW_9 ROW_10, ROW_9 ROW_10);
    ASSERT_BECOMES(ROW_9 ROW_10 ROW_11, ROW_9 ROW_10);
    ASSERT_BECOMES(ROW_9 ROW_10 "{\"step\":10,\"val_lo", ROW_9 ROW_10); // torn
    ASSERT_BECOMES(ROW_9 "{\"step\":10}", ROW_9 "{\"step\":10}\n"); // only the newline is missing
    // Two rows glued together, and good ones behind them.
    ASSERT_BECOMES("{\"step\":8,\"loss\":2.{\"step\":8,\"loss\":2.5}\n" ROW_9 ROW_10, ROW_9 ROW_10);
    ASSERT_BECOMES(ROW_9 "{\"step\":9}{\"step\":9}\n" ROW_10 ROW_11, ROW_9 ROW_10);
    // What a crash of the machine or another program leaves.
    ASSERT_BECOMES(ROW_9 "\0\0\0\0\0\0\n" ROW_10, ROW_9 ROW_10);
    ASSERT_BECOMES(ROW_9 "\0\0\0\0\0\0", ROW_9);
    ASSERT_BECOMES("step 9: hello\n\n[9]\n" ROW_9 "\xff\xfe\n" ROW_10, ROW_9 ROW_10);
    ASSERT_BECOMES("{\"note\":\"mine\"}\n" ROW_9, "{\"note\":\"mine\"}\n" ROW_9);
    ASSERT_BECOMES(ROW_9 ROW_11 ROW_10, ROW_9 ROW_10);
}

// As on a full disk: the kernel writes what fits and refuses the rest.
static void a_row_that_does_not_fit_leaves_no_trace(void **state) {
    (void)state;
    struct rlimit before, tiny;
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before);
    for (rlim_t limit = 1; limit < sizeof ROW_9 + sizeof ROW_10 - 2; limit++) {
        RowFile *rows = open_rows(0);
        tiny = (struct rlimit){.rlim_cur = limit, .rlim_max = before.rlim_max};
        setrlimit(RLIMIT_FSIZE, &tiny);
        row_file_append(rows, ROW_9);
        row_file_append(rows, ROW_10);
        row_file_append(rows, ROW_10);
        setrlimit(RLIMIT_FSIZE, &before);
        if (limit < sizeof ROW_9 - 1)
            assert_holds(path, limit < sizeof ROW_10 - 1 ? "" : ROW_10);
        else
            assert_holds(path, ROW_9);
        row_file_append(rows, ROW_11);
        row_file_close(rows);
        rows = open_rows(10); // and what is there counts as whole
        assert_holds(path, limit < sizeof ROW_9 - 1 ? "" : ROW_9);
        row_file_close(rows);
        unlink(path);
    }
}

static void a_removed_or_replaced_file_is_begun_anew(void **state) {
    (void)state;
    RowFile *rows = open_rows(0);
    row_file_append(rows, ROW_9);
    unlink(path);
    row_file_append(rows, ROW_10);
    assert_holds(path, ROW_10);
    rename(path, other); // as a tool that rotates logs does
    row_file_append(rows, ROW_11);
    assert_holds(path, ROW_11);
    assert_holds(other, ROW_10);
    put(other, "{\"step\":3}", 10); // and an editor, which may forget the newline
    rename(other, path);
    row_file_append(rows, ROW_9);
    assert_holds(path, "{\"step\":3}\n" ROW_9);
    // The folder goes, and comes back.
    char moved[80];
    snprintf(moved, sizeof moved, "%s.moved", folder);
    assert_int_equal(rename(folder, moved), 0);
    row_file_append(rows, ROW_10);
    row_file_append(rows, ROW_10);
    assert_int_equal(mkdir(folder, 0777), 0);
    row_file_append(rows, ROW_11);
    assert_holds(path, ROW_11);
    row_file_close(rows);
    char command[128];
    snprintf(command, sizeof command, "rm -r '%s'", moved);
    assert_int_equal(system(command), 0);
}

static void refused(const char *why) {
    RowFile *rows = NULL;
    Error err = {0};
    assert_false(row_file_open(&rows, path, 10, &err));
    assert_int_equal(err.exit_code, EXIT_IO);
    assert_non_null(strstr(err.message, why));
    assert_non_null(strstr(err.message, path));
    unlink(path);
}

static void only_a_regular_file_is_written(void **state) {
    (void)state;
    put(other, ROW_11, sizeof ROW_11 - 1);
    assert_int_equal(symlink(other, path), 0);
    refused("symbolic link");
    assert_holds(other, ROW_11);
    assert_int_equal(symlink("/nowhere/at/all", path), 0);
    refused("symbolic link");
    assert_int_equal(mkfifo(path, 0666), 0);
    refused("not a regular file");
    // A link that takes the file's place later.
    RowFile *rows = open_rows(10);
    unlink(path);
    assert_int_equal(symlink(other, path), 0);
    row_file_append(rows, ROW_9);
    assert_holds(other, ROW_11);
    row_file_close(rows);
}

static void a_copy_by_hard_links_is_not_shared(void **state) {
    (void)state;
    put(other, ROW_9 ROW_11, sizeof ROW_9 ROW_11 - 1);
    assert_int_equal(link(other, path), 0);
    RowFile *rows = open_rows(10);
    row_file_append(rows, ROW_10);
    row_file_close(rows);
    assert_holds(path, ROW_9 ROW_10);
    assert_holds(other, ROW_9 ROW_11);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_folder, remove_folder)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(only_whole_rows_up_to_the_step_are_kept),
        TEST(a_row_that_does_not_fit_leaves_no_trace),
        TEST(a_removed_or_replaced_file_is_begun_anew),
        TEST(only_a_regular_file_is_written),
        TEST(a_copy_by_hard_links_is_not_shared),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
