#include "launcher/slurm/batch_script.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void times_are_read_as_sbatch_reads_them(void **state) {
    (void)state;
    assert_true(sbatch_time_seconds("90") == 90 * 60);
    assert_true(sbatch_time_seconds("90:30") == 90 * 60 + 30);
    assert_true(sbatch_time_seconds("24:00:00") == 24 * 3600);
    assert_true(sbatch_time_seconds("2-12") == 60 * 3600);
    assert_true(sbatch_time_seconds("2-12:30") == 60 * 3600 + 30 * 60);
    assert_true(sbatch_time_seconds("2-12:30:15") == 60 * 3600 + 30 * 60 + 15);
    static const char *const wrong[] = {"",     "x",     "1h",       "1:2:3:4", "1-2:3:4:5", "-1",
                                        "1--2", "1:2-3", "infinite", "1:",      "2-",        " 1"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_true(sbatch_time_seconds(wrong[i]) == -1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(times_are_read_as_sbatch_reads_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
