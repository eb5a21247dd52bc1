// Errors that travel upwards, and the end of a process that cannot go on.
#include "kernels/check.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "kernels/log.h"

static void errors_keep_code_and_message(void **state) {
    (void)state;
    Error err = {0};
    assert_false(error_set(&err, EXIT_DATA, "token %d of %s", 7, "a.bin"));
    assert_int_equal(err.exit_code, EXIT_DATA);
    assert_string_equal(err.message, "token 7 of a.bin");
    assert_false(error_prefix(&err, "shard %d", 3));
    assert_string_equal(err.message, "shard 3: token 7 of a.bin");
    assert_int_equal(err.exit_code, EXIT_DATA);
}

static void long_messages_are_cut_not_overrun(void **state) {
    (void)state;
    char text[4096];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    Error err = {0};
    error_set(&err, EXIT_IO, "%s", text);
    assert_int_equal(strlen(err.message), sizeof err.message - 1);
    error_prefix(&err, "%s", text);
    assert_true(strlen(err.message) <= sizeof err.message - 1);
}

static void tell_parent(int exit_code) {
    if (exit_code == EXIT_IO) _exit(99); // proves that the hook ran
}

// Runs die() in a child process and returns its exit status; stderr is read into `text`.
static int child_status(char *text, size_t bytes, ExitCode code, void (*hook)(int)) {
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        log_set_rank(5);
        die_hook = hook;
        die(code, "place.c", 12, "%d experts", 3);
    }
    close(ends[1]);
    ssize_t count = read(ends[0], text, bytes - 1);
    text[count > 0 ? count : 0] = '\0';
    close(ends[0]);
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void dying_names_the_rank_the_cause_and_the_place(void **state) {
    (void)state;
    char text[1024];
    assert_int_equal(child_status(text, sizeof text, EXIT_COMMUNICATION, NULL), EXIT_COMMUNICATION);
    assert_non_null(strstr(text, "rank 5"));
    assert_non_null(strstr(text, "3 experts (place.c:12)"));
}

static void dying_calls_the_hook_and_ends_even_if_it_returns(void **state) {
    (void)state;
    char text[1024];
    assert_int_equal(child_status(text, sizeof text, EXIT_IO, tell_parent), 99);
    assert_int_equal(child_status(text, sizeof text, EXIT_HANG, tell_parent), EXIT_HANG);
}

// Which exit code a failed check ends with; 0 when the process went on.
static void fail_as_a_bug(void) {
    CHECK(1 + 1 == 3, "arithmetic");
}
static void fail_for_memory(void) {
    CHECK_MEMORY(NULL, "no memory for %d layers", 7);
}

static int ending_of(void (*work)(void), char *text, size_t bytes) {
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        die_hook = NULL;
        work();
        _exit(0);
    }
    close(ends[1]);
    ssize_t count = read(ends[0], text, bytes - 1);
    text[count > 0 ? count : 0] = '\0';
    close(ends[0]);
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WEXITSTATUS(status);
}

static void a_bug_and_missing_memory_have_codes_of_their_own(void **state) {
    (void)state;
    char text[2048];
    assert_int_equal(ending_of(fail_as_a_bug, text, sizeof text), EXIT_BUG);
    assert_non_null(strstr(text, "arithmetic"));
    assert_int_equal(ending_of(fail_for_memory, text, sizeof text), EXIT_IO);
    assert_non_null(strstr(text, "no memory for 7 layers; "));
    assert_non_null(strstr(text, "MiB are free"));
}

static void a_true_check_does_nothing(void **state) {
    state = (void **)&state;
    CHECK(1 + 1 == 2, "arithmetic");
    CHECK_MEMORY(state, "no memory");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors_keep_code_and_message),
        cmocka_unit_test(long_messages_are_cut_not_overrun),
        cmocka_unit_test(dying_names_the_rank_the_cause_and_the_place),
        cmocka_unit_test(dying_calls_the_hook_and_ends_even_if_it_returns),
        cmocka_unit_test(a_bug_and_missing_memory_have_codes_of_their_own),
        cmocka_unit_test(a_true_check_does_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
