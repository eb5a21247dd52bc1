// Going back: what is given up is moved aside whole, whenever it was interrupted.
#include "checkpoint/going_back.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "checkpoint/checkpoint_list.h"

static const char RUN[] = "0123456789abcdef0123456789abcdef";
static char run_dir[64];

static const char *path_of(const char *name) {
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", run_dir, name);
    return path;
}

static void write_file(const char *name, const char *text) {
    FILE *file = fopen(path_of(name), "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static bool contains(const char *name, const char *text) {
    char read[64] = "";
    FILE *file = fopen(path_of(name), "r");
    if (!file) return false;
    size_t got = fread(read, 1, sizeof read - 1, file);
    fclose(file);
    return got == strlen(text) && strcmp(read, text) == 0;
}

// Four checkpoints, of steps 10 to 40, each its own text.
static int make_run(void **state) {
    (void)state;
    snprintf(run_dir, sizeof run_dir, "/tmp/test_going_back.XXXXXX");
    if (!mkdtemp(run_dir) || mkdir(path_of("checkpoints"), 0777) != 0) return -1;
    write_file("checkpoints/step-00000010.h5", "ten");
    write_file("checkpoints/step-00000020.h5", "twenty");
    write_file("checkpoints/step-00000030.h5", "thirty");
    write_file("checkpoints/step-00000040.h5", "forty");
    write_file("metrics.jsonl", "rows");
    return 0;
}

static int remove_run(void **state) {
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -r '%s'", run_dir);
    return system(command);
}

static int64_t newest(void) {
    CheckpointList list;
    Error err = {0};
    assert_true(checkpoint_list_read(&list, path_of("checkpoints"), &err));
    int64_t step = list.count > 0 ? list.steps[0] : -1;
    checkpoint_list_free(&list);
    return step;
}

static void assert_moved_aside(void) {
    assert_int_equal(newest(), 20);
    assert_true(contains("checkpoints/step-00000010.h5", "ten"));
    assert_true(contains("checkpoints/step-00000020.h5", "twenty"));
    assert_true(
        contains("checkpoints/abandoned-01234567-from-step-00000020/step-00000030.h5", "thirty"));
    assert_true(
        contains("checkpoints/abandoned-01234567-from-step-00000020/step-00000040.h5", "forty"));
    assert_true(
        contains("checkpoints/abandoned-01234567-from-step-00000020/metrics.jsonl", "rows"));
    assert_true(contains("metrics.jsonl", "rows")); // the trainer cuts it
    assert_int_not_equal(
        access(path_of("checkpoints/abandoned-01234567-from-step-00000020.moving"), F_OK), 0);
}

static void what_comes_after_is_moved_aside(void **state) {
    (void)state;
    Error err = {0};
    assert_true(going_back_to(run_dir, RUN, 20, &err));
    assert_moved_aside();
    assert_true(going_back_finish(run_dir, &err)); // nothing is left to do
    assert_moved_aside();
}

static void nothing_after_it_leaves_all_as_it_is(void **state) {
    (void)state;
    Error err = {0};
    assert_true(going_back_to(run_dir, RUN, 40, &err));
    assert_true(going_back_finish(run_dir, &err));
    assert_int_equal(newest(), 40);
    assert_int_equal(rmdir(path_of("checkpoints")), -1);
    assert_true(going_back_to("/tmp/no-such-run", RUN, 0, &err));
    assert_true(going_back_finish("/tmp/no-such-run", &err));
}

// The moments at which a crash leaves something different behind: after the folder is made, after
// each rename, in the copy.
static void an_interrupted_one_is_finished(void **state) {
    (void)state;
    static const char folder[] = "checkpoints/abandoned-01234567-from-step-00000020.moving";
    static const char *const names[] = {"step-00000040.h5", "step-00000030.h5"};
    for (int moved = 0; moved <= 3; moved++) {
        char from[256], to[256];
        Error err = {0};
        assert_int_equal(mkdir(path_of(folder), 0777), 0);
        for (int i = 0; i < 2 && i < moved; i++) {
            snprintf(from, sizeof from, "%s/checkpoints/%s", run_dir, names[i]);
            snprintf(to, sizeof to, "%s/%s/%s", run_dir, folder, names[i]);
            assert_int_equal(rename(from, to), 0);
        }
        snprintf(to, sizeof to, "%s/metrics.jsonl.tmp", folder);
        if (moved == 3) write_file(to, "ro");
        assert_true(going_back_finish(run_dir, &err));
        assert_moved_aside();
        remove_run(NULL);
        assert_int_equal(make_run(NULL), 0);
    }
}

static void a_second_time_gets_a_folder_of_its_own(void **state) {
    (void)state;
    Error err = {0};
    assert_true(going_back_to(run_dir, RUN, 20, &err));
    write_file("checkpoints/step-00000030.h5", "again");
    assert_true(going_back_to(run_dir, RUN, 20, &err));
    assert_moved_aside();
    assert_true(
        contains("checkpoints/abandoned-01234567-from-step-00000020-2/step-00000030.h5", "again"));
}

static void a_whole_run_goes_with_its_rows(void **state) {
    (void)state;
    Error err = {0};
    assert_true(going_back_to(run_dir, "", GOING_BACK_WHOLE, &err));
    assert_int_equal(newest(), -1);
    assert_true(contains("checkpoints/abandoned-unknown-whole/step-00000010.h5", "ten"));
    assert_true(contains("checkpoints/abandoned-unknown-whole/metrics.jsonl", "rows"));
    assert_int_not_equal(access(path_of("metrics.jsonl"), F_OK), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_run, remove_run)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(what_comes_after_is_moved_aside), TEST(nothing_after_it_leaves_all_as_it_is),
        TEST(an_interrupted_one_is_finished),  TEST(a_second_time_gets_a_folder_of_its_own),
        TEST(a_whole_run_goes_with_its_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
