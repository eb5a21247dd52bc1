// Which launcher fits, and its command line.
#include "launcher/supervisor/rank_launcher.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "own_program.h"

static char folder[] = "/tmp/moetrain-rank-launcher-XXXXXX";

// An srun of ours, the first in PATH.
static void srun_says(const char *script) {
    program_says(folder, "srun", script);
}

static int begin(void **state) {
    (void)state;
    srun_says("[ \"$*\" = --mpi=list ] && echo MPI plugin types are... && echo pmix_v4");
    setenv("SLURM_JOB_ID", "17", 1);
    unsetenv("SLURM_STEP_ID");
    return 0;
}

static void a_job_has_srun(void **state) {
    (void)state;
    assert_string_equal(launcher_here(), "srun");
    setenv("SLURM_STEP_ID", "4294967290", 1); // a shell of salloc
    assert_string_equal(launcher_here(), "srun");
    unsetenv("SLURM_JOB_ID");
    assert_string_equal(launcher_here(), "mpirun");
}

static void a_step_has_no_room_for_another(void **state) {
    (void)state;
    setenv("SLURM_STEP_ID", "0", 1);
    assert_string_equal(launcher_here(), "mpirun");
}

static void an_srun_without_pmix_starts_no_ranks(void **state) {
    (void)state;
    static const char *const without[] = {"echo none; echo pmi2", "echo pmix >&2; exit 1",
                                          "exit 1"};
    static const char *const launchers[] = {"mpirun", "srun", "mpirun"}; // of old, to stderr
    for (int i = 0; i < 3; i++) {
        srun_says(without[i]);
        assert_string_equal(launcher_here(), launchers[i]);
    }
}

static void known_names_are_command_lines(void **state) {
    (void)state;
    static const char *const own = "ssh somewhere mpirun -np {np}";
    assert_string_equal(launcher_command(own, true, true), own);
    assert_string_equal(launcher_command("srun", false, false),
                        "srun --mpi=pmix --kill-on-bad-exit=1 -n {np} ${SRUN_OPTIONS:-}");
    assert_string_equal(
        launcher_command("srun", false, true),
        "srun --mpi=pmix --kill-on-bad-exit=1 --nodes={nodes} -n {np} ${SRUN_OPTIONS:-}");
    assert_string_equal(
        launcher_command("mpirun", true, true),
        "mpirun -x MOETRAIN_ATTEMPT -x MOETRAIN_SECONDS_LEFT --host {hosts} -np {np}");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_job_has_srun, begin),
        cmocka_unit_test_setup(a_step_has_no_room_for_another, begin),
        cmocka_unit_test_setup(an_srun_without_pmix_starts_no_ranks, begin),
        cmocka_unit_test(known_names_are_command_lines),
    };
    char path[4096], script[64];
    if (!mkdtemp(folder)) return 1;
    const char *before = getenv("PATH");
    snprintf(path, sizeof path, "%s:%s", folder, before ? before : "/bin");
    setenv("PATH", path, 1);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    snprintf(script, sizeof script, "%s/srun", folder);
    unlink(script);
    rmdir(folder);
    return failed;
}
