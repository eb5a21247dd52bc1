// Which names in a folder are checkpoints, and in which order.
#include "checkpoint/checkpoint_list.h"

#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[PATH_MAX];

static int new_folder(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/moetrain-test-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
    (void)state;
    char command[PATH_MAX + 16];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return system(command);
}

static void path_of(const char *name, char path[2 * PATH_MAX]) {
    snprintf(path, 2 * PATH_MAX, "%s/%s", folder, name);
}

static void put(const char *name) {
    char path[2 * PATH_MAX];
    path_of(name, path);
    int file = open(path, O_CREAT | O_WRONLY, 0666);
    assert_true(file >= 0);
    close(file);
}

static bool is_there(const char *name) {
    char path[2 * PATH_MAX];
    path_of(name, path);
    return access(path, F_OK) == 0;
}

static const char *const others[] = {
    "step-20.h5",
    "step-000000020.h5",
    "step-00000020.h5~",
    "step-00000020.h5.tmp",
    "step-00000020.hdf5",
    "step--0000020.h5",
    "step-+0000020.h5",
    "step- 0000020.h5",
    "Step-00000020.h5",
    "a-step-00000020.h5",
    "step-.h5",
    "step-0000002x.h5",
    "step-00000020",
    "step-0x000020.h5",
    "config.yaml",
    "step-00000020.h5.h5",
    "step-99999999999999999999.h5",
    "step-00000030.h5.tmp",
};
enum { OTHERS = sizeof others / sizeof *others };

static void only_names_as_saves_write_them_count_newest_first(void **state) {
    (void)state;
    static const int64_t steps[] = {100000000, 99999999, 1000, 9, 0}; // by number, not by name
    static const char *const names[] = {"step-00000009.h5", "step-100000000.h5", "step-00001000.h5",
                                        "step-00000000.h5", "step-99999999.h5"};
    for (int i = 0; i < 5; i++) put(names[i]);
    for (int i = 0; i < OTHERS; i++) put(others[i]);
    CheckpointList list;
    Error err = {0};
    assert_true(checkpoint_list_read(&list, folder, &err));
    assert_int_equal(list.count, 5);
    for (int i = 0; i < 5; i++) assert_int_equal(list.steps[i], steps[i]);
    checkpoint_list_free(&list);
}

static void only_unfinished_saves_are_cleared_away(void **state) {
    (void)state;
    put("step-00000020.h5");
    put("notes.tmp");
    for (int i = 0; i < OTHERS; i++) put(others[i]);
    checkpoint_list_remove_temporary(folder);
    for (int i = 0; i < OTHERS; i++) {
        bool unfinished = i == 3 || i == OTHERS - 1;
        if (is_there(others[i]) == unfinished) fail_msg("%s", others[i]);
    }
    assert_true(is_there("step-00000020.h5"));
    assert_true(is_there("notes.tmp"));
}

static void no_folder_is_an_empty_one_and_no_file_is_one(void **state) {
    (void)state;
    CheckpointList list;
    Error err = {0};
    char path[2 * PATH_MAX];
    path_of("none", path);
    assert_true(checkpoint_list_read(&list, path, &err));
    assert_int_equal(list.count, 0);
    put("file");
    path_of("file", path);
    assert_false(checkpoint_list_read(&list, path, &err));
    assert_int_equal(err.exit_code, EXIT_IO);
}

static void many_are_all_found(void **state) {
    (void)state;
    enum { MANY = 300 };
    for (int i = 0; i < MANY; i++) {
        char name[32];
        snprintf(name, sizeof name, "step-%08d.h5", i * 7);
        put(name);
    }
    CheckpointList list;
    Error err = {0};
    assert_true(checkpoint_list_read(&list, folder, &err));
    assert_int_equal(list.count, MANY);
    for (int i = 0; i < MANY; i++) assert_int_equal(list.steps[i], (MANY - 1 - i) * 7);
    checkpoint_list_free(&list);
}

int main(void) {
#define TEST(function) cmocka_unit_test_setup_teardown(function, new_folder, remove_folder)
    const struct CMUnitTest tests[] = {
        TEST(only_names_as_saves_write_them_count_newest_first),
        TEST(only_unfinished_saves_are_cleared_away),
        TEST(no_folder_is_an_empty_one_and_no_file_is_one),
        TEST(many_are_all_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
