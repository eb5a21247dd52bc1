// Two processes that make the same file or folder do not write into each other's.
#include "checkpoint/temporary_name.h"

#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[64], path[96], temporary[PATH_MAX];

static int new_folder(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/moetrain-test-XXXXXX");
    if (!mkdtemp(folder)) return -1;
    snprintf(path, sizeof path, "%s/new.h5", folder);
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return system(command);
}

static void make(const char *name, bool directory) {
    int file = directory ? mkdir(name, 0777) : open(name, O_CREAT | O_EXCL | O_WRONLY, 0666);
    assert_true(file >= 0);
    if (!directory) close(file);
}

// A process that takes the name, makes something of it, and lives until it is killed.
static pid_t start_maker(bool directory) {
    int ready[2];
    char done = 0;
    assert_int_equal(pipe(ready), 0);
    pid_t process = fork();
    assert_true(process >= 0);
    if (process == 0) {
        Error err;
        alarm(30); // after a failed test
        if (!temporary_name_take(temporary, sizeof temporary, path, &err)) _exit(1);
        make(temporary, directory);
        if (write(ready[1], "", 1) != 1) _exit(1);
        for (;;) pause();
    }
    close(ready[1]);
    assert_int_equal(read(ready[0], &done, 1), 1);
    close(ready[0]);
    return process;
}

static int entries(void) {
    char command[160];
    snprintf(command, sizeof command, "exit $(ls -A %s | wc -l)", folder);
    return WEXITSTATUS(system(command));
}

static void check_maker(bool directory) {
    Error err = {0};
    char process[32];
    pid_t maker = start_maker(directory);
    assert_false(temporary_name_take(temporary, sizeof temporary, path, &err));
    assert_int_equal(err.exit_code, EXIT_IO);
    snprintf(process, sizeof process, "process %d is making it", (int)maker);
    assert_non_null(strstr(err.message, process));
    assert_non_null(strstr(err.message, path));
    assert_int_equal(entries(), 1);
    kill(maker, SIGKILL);
    waitpid(maker, NULL, 0);
    // What it has left goes; of a name that only begins so nothing does.
    char other[160];
    snprintf(other, sizeof other, "%s.tmp", path);
    make(other, false);
    assert_true(temporary_name_take(temporary, sizeof temporary, path, &err));
    assert_int_equal(entries(), 1);
}

static void a_file_that_another_process_makes_is_left_to_it_while_it_lives(void **state) {
    (void)state;
    check_maker(false);
}

static void so_is_a_folder(void **state) {
    (void)state;
    check_maker(true);
}

static void what_has_the_name_by_now_stays(void **state) {
    (void)state;
    Error err = {0};
    assert_true(temporary_name_take(temporary, sizeof temporary, path, &err));
    make(temporary, false);
    make(path, false);
    assert_false(temporary_name_publish(temporary, path, &err));
    assert_non_null(strstr(err.message, "exists; remove it or choose another name"));
    assert_true(temporary_name_remove(temporary, &err));
    assert_false(temporary_name_take(temporary, sizeof temporary, path, &err));
    assert_int_equal(unlink(path), 0);
    assert_true(temporary_name_take(temporary, sizeof temporary, path, &err));
    make(temporary, true);
    assert_true(temporary_name_publish(temporary, path, &err));
    assert_int_equal(entries(), 1);
}

int main(void) {
#define TEST(function) cmocka_unit_test_setup_teardown(function, new_folder, remove_folder)
    const struct CMUnitTest tests[] = {
        TEST(a_file_that_another_process_makes_is_left_to_it_while_it_lives),
        TEST(so_is_a_folder),
        TEST(what_has_the_name_by_now_stays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
