// Threads: cgroups of both versions in made-up file systems, CPU sets larger than cpu_set_t,
// OMP_NUM_THREADS.
#include "kernels/threads.h"

#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char root[PATH_MAX];

static void put(const char *path, const char *text) {
    char name[2 * PATH_MAX];
    snprintf(name, sizeof name, "%s%s", root, path);
    for (char *c = name + 1; (c = strchr(c, '/')); c++) {
        *c = 0;
        mkdir(name, 0777);
        *c = '/';
    }
    FILE *file = fopen(name, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static int new_root(void **state) {
    (void)state;
    snprintf(root, sizeof root, "/tmp/moetrain-test-XXXXXX");
    return mkdtemp(root) ? 0 : -1;
}

static int remove_root(void **state) {
    (void)state;
    char command[PATH_MAX + 16];
    snprintf(command, sizeof command, "rm -rf %s", root);
    return system(command);
}

static void assert_cpus(double wanted) {
    double got = threads_cgroup_cpus(root);
    if (got < wanted - 1e-9 || got > wanted + 1e-9) fail_msg("%g CPUs, not %g", got, wanted);
}

static void without_cgroups_there_is_no_limit(void **state) {
    (void)state;
    assert_cpus(0);
    put("/proc/self/cgroup", "0::/a\n");
    put("/proc/self/mountinfo", "1 2 0:1 / /proc rw - proc proc rw\n");
    assert_cpus(0);
}

static void version_2_takes_the_least_of_all_levels(void **state) {
    (void)state;
    put("/proc/self/cgroup", "0::/slurm/job/step\n");
    put("/proc/self/mountinfo",
        "30 20 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n");
    put("/sys/fs/cgroup/slurm/job/step/cpu.max", "max 100000\n");
    assert_cpus(0);
    put("/sys/fs/cgroup/slurm/job/cpu.max", "250000 100000\n");
    put("/sys/fs/cgroup/slurm/cpu.max", "800000 100000\n");
    assert_cpus(2.5);
    put("/sys/fs/cgroup/slurm/job/step/cpu.max", "50000 100000\n");
    assert_cpus(0.5);
}

static void version_1_is_found_among_its_controllers(void **state) {
    (void)state;
    put("/proc/self/cgroup", "5:cpuset:/set\n4:cpuacct,cpu:/docker/x\n1:name=systemd:/s\n0::/\n");
    put("/proc/self/mountinfo",
        "31 20 0:27 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
        "32 20 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
        "33 20 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
    put("/sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_quota_us", "-1\n");
    put("/sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_period_us", "100000\n");
    assert_cpus(0);
    put("/sys/fs/cgroup/cpu,cpuacct/docker/cpu.cfs_quota_us", "300000\n");
    put("/sys/fs/cgroup/cpu,cpuacct/docker/cpu.cfs_period_us", "200000\n");
    assert_cpus(1.5);
}

static void a_container_sees_its_own_cgroup_at_the_mount(void **state) {
    (void)state;
    put("/proc/self/mountinfo",
        "32 20 0:28 /docker/x /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu\n");
    put("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "400000\n");
    put("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
    put("/sys/fs/cgroup/cpu/inner/cpu.cfs_quota_us", "100000\n");
    put("/sys/fs/cgroup/cpu/inner/cpu.cfs_period_us", "100000\n");
    static const struct {
        const char *cgroup;
        double cpus;
    } cases[] = {{"4:cpu:/docker/x\n", 4},
                 {"4:cpu:/docker/x/inner\n", 1},
                 {"4:cpu:/docker/xy\n", 4},
                 {"4:cpu:/../other\n", 4},
                 {"4:cpu:/\n", 4}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put("/proc/self/cgroup", cases[i].cgroup);
        assert_cpus(cases[i].cpus);
    }
}

// ---- sched_getaffinity of another machine -------------------------------------------------------

static int fake_cpus = 0; // 0: this machine's

int __real_sched_getaffinity(pid_t pid, size_t bytes, cpu_set_t *set);
int __wrap_sched_getaffinity(pid_t pid, size_t bytes, cpu_set_t *set);
int __wrap_sched_getaffinity(pid_t pid, size_t bytes, cpu_set_t *set) {
    if (fake_cpus == 0) return __real_sched_getaffinity(pid, bytes, set);
    if (bytes * CHAR_BIT < (size_t)fake_cpus) return errno = EINVAL, -1;
    CPU_ZERO_S(bytes, set);
    for (int cpu = 0; cpu < fake_cpus; cpu++) CPU_SET_S((size_t)cpu, bytes, set);
    return 0;
}

static void assert_threads(int wanted, int cpu_sharers, int quota_sharers, const char *reason) {
    ThreadChoice choice = threads_choose(0, cpu_sharers, quota_sharers);
    if (threads_cgroup_cpus("") > 0) skip(); // this test itself runs under a quota
    assert_int_equal(choice.threads, wanted);
    assert_true((choice.cpus >= 1 ? (int)choice.cpus : 1) == wanted);
    assert_string_equal(choice.reason, reason);
}

static void cpu_sets_of_any_size_are_counted_and_shared(void **state) {
    (void)state;
    unsetenv("OMP_NUM_THREADS");
    fake_cpus = 64;
    uint64_t key = threads_cpus_key();
    assert_threads(64, 1, 1, "64 CPUs");
    assert_threads(16, 4, 4, "4 ranks share 64 CPUs");
    assert_threads(1, 65, 65, "65 ranks share 64 CPUs");
    fake_cpus = 1536;
    assert_int_not_equal(threads_cpus_key(), key);
    assert_threads(1536, 1, 8, "1536 CPUs");
    fake_cpus = 0;
}

static void omp_num_threads_is_obeyed_when_it_is_a_number(void **state) {
    (void)state;
    static const struct {
        const char *text;
        int threads; // 0: as without it
    } cases[] = {{"3", 3},         {"5,2", 5}, {" 4 ", 4}, {"", 0},    {"abc", 0},
                 {"0", 0},         {"-2", 0},  {"2x", 0},  {"1e2", 0}, {"99999999999999999999", 0},
                 {"1000000000", 0}};
    fake_cpus = 7;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        setenv("OMP_NUM_THREADS", cases[i].text, 1);
        ThreadChoice choice = threads_choose(0, 1, 1);
        if (cases[i].threads) {
            assert_int_equal(choice.threads, cases[i].threads);
            assert_string_equal(choice.reason, "OMP_NUM_THREADS");
            assert_string_equal(choice.warning, "");
        } else {
            assert_string_not_equal(choice.reason, "OMP_NUM_THREADS");
            assert_non_null(strstr(choice.warning, "OMP_NUM_THREADS"));
        }
        assert_int_equal(threads_choose(6, 1, 1).threads, 6);
        assert_true(threads_choose(6, 4, 1).cpus == threads_choose(0, 4, 1).cpus);
    }
    unsetenv("OMP_NUM_THREADS");
    fake_cpus = 0;
}

#define WITH_ROOT(test) cmocka_unit_test_setup_teardown(test, new_root, remove_root)

int main(void) {
    const struct CMUnitTest tests[] = {
        WITH_ROOT(without_cgroups_there_is_no_limit),
        WITH_ROOT(version_2_takes_the_least_of_all_levels),
        WITH_ROOT(version_1_is_found_among_its_controllers),
        WITH_ROOT(a_container_sees_its_own_cgroup_at_the_mount),
        cmocka_unit_test(cpu_sets_of_any_size_are_counted_and_shared),
        cmocka_unit_test(omp_num_threads_is_obeyed_when_it_is_a_number),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
