#include "worker/run/job_end.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "kernels/clock.h"
#include "own_program.h"
#include "worker/run/ask_program.h"

static char folder[] = "/tmp/moetrain-job-end-XXXXXX";

// A squeue of ours, alone in PATH but for the shell's own words.
static void squeue_says(const char *script) {
    program_says(folder, "squeue", script);
}

static int begin(void **state) {
    (void)state;
    unsetenv("MOETRAIN_SECONDS_LEFT");
    unsetenv("SLURM_JOB_END_TIME");
    setenv("SLURM_JOB_ID", "17", 1);
    return 0;
}

static double left(const JobEnd *end) {
    return end->at - clock_seconds();
}

static void times_of_slurm_are_read_and_nothing_else(void **state) {
    (void)state;
    assert_true(slurm_seconds("0:07") == 7);
    assert_true(slurm_seconds("59:59") == 3599);
    assert_true(slurm_seconds("1:00:00") == 3600);
    assert_true(slurm_seconds("2-03:04:05") == 2 * 86400 + 3 * 3600 + 4 * 60 + 5);
    static const char *const wrong[] = {"",     "UNLIMITED", "INVALID", "NOT_SET", "7",  "1:2:3:4",
                                        "-1:0", "1:-2",      "3-",      "1:2x",    ":1", "1:"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_true(slurm_seconds(wrong[i]) == -1);
}

static void the_sooner_of_two_limits_holds(void **state) {
    (void)state;
    squeue_says("[ \"$*\" = '--noheader --jobs 17 --format=%L' ] && echo 1:40");
    JobEnd end = job_end_find(0);
    assert_true(left(&end) > 90 && left(&end) <= 100);
    assert_string_equal(end.source, "Slurm job 17");
    end = job_end_find(1);
    assert_true(left(&end) > 50 && left(&end) <= 60);
    assert_string_equal(end.source, "run.max_minutes");
    end = job_end_find(100);
    assert_string_equal(end.source, "Slurm job 17");
}

static void without_a_limit_there_is_none(void **state) {
    (void)state;
    squeue_says("echo UNLIMITED");
    assert_true(isinf(job_end_find(0).at));
    squeue_says("echo 1:40; exit 1"); // a job that it does not know
    assert_true(isinf(job_end_find(0).at));
    unsetenv("SLURM_JOB_ID");
    squeue_says("echo 1:40");
    assert_true(isinf(job_end_find(0).at));
}

static void a_silent_squeue_leaves_the_variable(void **state) {
    (void)state;
    char soon[32];
    squeue_says("exit 1");
    snprintf(soon, sizeof soon, "%lld", (long long)time(NULL) + 100);
    setenv("SLURM_JOB_END_TIME", soon, 1);
    JobEnd end = job_end_find(0);
    assert_true(left(&end) > 90 && left(&end) <= 100);
}

static void what_a_supervisor_hands_on_is_taken(void **state) {
    (void)state;
    squeue_says("echo 1:40");
    JobEnd end = {clock_seconds() + 500, "Slurm job 3", clock_seconds() + 600};
    job_end_hand_on(&end);
    JobEnd taken = job_end_find(1);
    assert_true(left(&taken) > 490 && left(&taken) <= 500.1);
    assert_true(taken.own - taken.at > 99 && taken.own - taken.at < 101);
    assert_string_equal(taken.source, "Slurm job 3");
    end.own = INFINITY;
    job_end_hand_on(&end);
    assert_true(isinf(job_end_find(1).own));
    end.at = INFINITY;
    job_end_hand_on(&end);
    assert_true(isinf(job_end_find(1).at)); // the supervisor has counted run.max_minutes
}

static void it_is_asked_again(void **state) {
    (void)state;
    squeue_says("echo 1:40");
    JobEnd end = job_end_find(5);
    squeue_says("echo 0:10"); // somebody has changed it
    assert_true(job_end_ask(&end) && left(&end) > 0 && left(&end) <= 10);
    assert_string_equal(end.source, "Slurm job 17");
    squeue_says("echo 1:00:00");
    assert_true(job_end_ask(&end) && left(&end) > 290 && left(&end) <= 300);
    assert_string_equal(end.source, "run.max_minutes");
    squeue_says("echo 0:10");
    assert_true(job_end_ask(&end));
    JobEnd known = end;
    static const char *const silent[] = {"exit 1", "echo INVALID", "echo"};
    for (int i = 0; i < 3; i++) {
        squeue_says(silent[i]);
        assert_false(job_end_ask(&end));
        assert_true(end.at == known.at);
    }
    squeue_says("echo UNLIMITED");
    assert_true(job_end_ask(&end) && left(&end) > 290);
    unsetenv("SLURM_JOB_ID");
    assert_false(job_end_ask(&end));
}

static void a_program_that_hangs_is_not_waited_for(void **state) {
    (void)state;
    char answer[32];
    squeue_says("echo late; exec sleep 1000");
    double start = clock_seconds();
    const char *const words[] = {"squeue", NULL}, *const none[] = {"no-such-program", NULL};
    assert_false(ask_program(words, 0.2, answer, sizeof answer));
    assert_true(clock_seconds() - start < 100);
    assert_false(ask_program(none, 10, answer, sizeof answer));
    squeue_says("echo first; echo second");
    assert_true(ask_program(words, 100, answer, sizeof answer));
    assert_string_equal(answer, "first");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(times_of_slurm_are_read_and_nothing_else, begin),
        cmocka_unit_test_setup(the_sooner_of_two_limits_holds, begin),
        cmocka_unit_test_setup(without_a_limit_there_is_none, begin),
        cmocka_unit_test_setup(a_silent_squeue_leaves_the_variable, begin),
        cmocka_unit_test_setup(what_a_supervisor_hands_on_is_taken, begin),
        cmocka_unit_test_setup(it_is_asked_again, begin),
        cmocka_unit_test_setup(a_program_that_hangs_is_not_waited_for, begin),
    };
    char path[4096], script[64];
    if (!mkdtemp(folder)) return 1;
    const char *before = getenv("PATH");
    snprintf(path, sizeof path, "%s:%s", folder, before ? before : "/bin");
    setenv("PATH", path, 1);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    snprintf(script, sizeof script, "%s/squeue", folder);
    unlink(script);
    rmdir(folder);
    return failed;
}
