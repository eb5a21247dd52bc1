// The life of MPI in one process: who may end it, and which ranks of a host have something in
// common.
#include "comm/comm.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static void *fail_a_check(void *unused) {
    CHECK(unused != NULL, "something is wrong");
    return NULL;
}

// Runs `work` in a process of its own with MPI; *text: what it says on stderr. Its exit code.
static int in_a_process(void (*work)(void), char *text, size_t bytes) {
    int ends[2], status = 0;
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        comm_init(&(int){0}, &(char **){NULL});
        work();
        _exit(0);
    }
    close(ends[1]);
    size_t length = 0;
    for (ssize_t got;
         length + 1 < bytes && (got = read(ends[0], text + length, bytes - 1 - length)) > 0;)
        length += (size_t)got;
    text[length] = 0;
    close(ends[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void fail_here(void) {
    fail_a_check(NULL);
}

static void fail_on_another_thread(void) {
    pthread_t thread;
    pthread_create(&thread, NULL, fail_a_check, NULL);
    pthread_join(thread, NULL);
}

static void only_the_thread_of_mpi_calls_it_to_abort(void **state) {
    (void)state;
    static char text[16384];
    assert_int_not_equal(in_a_process(fail_here, text, sizeof text), 0);
    assert_non_null(strstr(text, "something is wrong"));
    int code = in_a_process(fail_on_another_thread, text, sizeof text);
    assert_non_null(strstr(text, "something is wrong"));
    assert_null(strstr(text, "MPI_ABORT was invoked"));
    assert_int_not_equal(code, 0);
}

static void share_a_key(void) {
    _exit(comm_local_sharers(7) == 1 ? 0 : 1);
}

static void a_rank_alone_shares_with_nobody(void **state) {
    (void)state;
    static char text[16384];
    assert_int_equal(in_a_process(share_a_key, text, sizeof text), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_the_thread_of_mpi_calls_it_to_abort),
        cmocka_unit_test(a_rank_alone_shares_with_nobody),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
