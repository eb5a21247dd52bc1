// What the host still has for a process: the machine, and control groups of both versions, nested.
#include "kernels/host_memory.h"

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

static char root[64];

static int make_root(void **state) {
    (void)state;
    snprintf(root, sizeof root, "/tmp/moetrain-memory-XXXXXX");
    return mkdtemp(root) ? 0 : -1;
}

static int remove_root(void **state) {
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", root);
    return system(command);
}

// Writes root/name, with the folders before it.
static void put(const char *name, const char *text) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", root, name);
    for (char *slash = path + strlen(root) + 1; (slash = strchr(slash, '/')); *slash++ = '/') {
        *slash = 0;
        mkdir(path, 0777);
    }
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void the_machine_without_groups(void **state) {
    (void)state;
    put("proc/self/mountinfo", "1 2 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n"
                               "2 2 0:2 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n");
    put("proc/meminfo", "MemTotal: 9000 kB\nMemFree: 10 kB\nMemAvailable:    1000 kB\n");
    HostMemory memory = host_memory_below(root);
    assert_int_equal(memory.available_bytes, 1000 * 1024);
    assert_true(memory.own_bytes == SIZE_MAX);
    assert_string_equal(memory.limit, "the machine");
}

static void a_group_of_version_2_counts_its_cache_as_free(void **state) {
    (void)state;
    put("proc/meminfo", "MemAvailable: 1000 kB\n");
    put("proc/self/cgroup", "0::/job/step\n");
    put("sys/fs/cgroup/job/step/memory.max", "600000\n");
    put("sys/fs/cgroup/job/step/memory.current", "500000\n");
    put("sys/fs/cgroup/job/step/memory.stat", "anon 1\ninactive_file 100000\n");
    put("sys/fs/cgroup/job/memory.max", "max\n");
    put("sys/fs/cgroup/job/memory.current", "500000\n");
    HostMemory memory = host_memory_below(root);
    assert_int_equal(memory.available_bytes, 200000);
    assert_int_equal(memory.own_bytes, 200000);
    assert_int_equal(memory.shared_bytes, 1000 * 1024);
    assert_non_null(strstr(memory.limit, "job/step/memory.max"));
}

static void a_tighter_group_above_decides(void **state) {
    (void)state;
    put("proc/self/cgroup", "0::/job/step\n");
    put("sys/fs/cgroup/job/memory.max", "550000\n");
    HostMemory memory = host_memory_below(root); // 550000 - 500000, its memory.stat is not there
    assert_int_equal(memory.available_bytes, 50000);
    assert_int_equal(memory.shared_bytes, 50000);
    assert_int_equal(memory.own_bytes, 200000);
    assert_non_null(strstr(memory.limit, "job/memory.max"));
}

static void a_full_group_leaves_nothing(void **state) {
    (void)state;
    put("sys/fs/cgroup/job/memory.max", "400000\n");
    assert_int_equal(host_memory_below(root).available_bytes, 0);
}

static void version_1_and_a_mount_that_hides_the_host(void **state) {
    (void)state;
    put("proc/meminfo", "MemAvailable: 1000 kB\n");
    put("proc/self/cgroup", "5:cpu:/\n4:memory:/on/the/host\n0::/\n");
    put("proc/self/mountinfo",
        "2 2 0:2 /on/the/host /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n");
    put("sys/fs/cgroup/memory/memory.limit_in_bytes", "300000\n");
    put("sys/fs/cgroup/memory/memory.usage_in_bytes", "100000\n");
    put("sys/fs/cgroup/memory/memory.stat", "cache 1\ntotal_inactive_file 7000\n");
    HostMemory memory = host_memory_below(root);
    assert_int_equal(memory.available_bytes, 207000);
    assert_true(memory.own_bytes == SIZE_MAX); // it is everybody's in the container
    put("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"); // none
    assert_int_equal(host_memory_below(root).available_bytes, 1000 * 1024);
}

static void paths_that_lead_outside_are_not_followed(void **state) {
    (void)state;
    put("proc/self/cgroup", "0::/../../job\n");
    assert_int_equal(host_memory_below(root).available_bytes, 1000 * 1024);
    put("proc/self/cgroup", "nonsense\n\n:\n0:\n");
    assert_int_equal(host_memory_below(root).available_bytes, 1000 * 1024);
}

static void nothing_known_is_no_limit(void **state) {
    (void)state;
    HostMemory memory = host_memory_below("/nowhere");
    assert_true(memory.available_bytes == SIZE_MAX);
    assert_string_equal(memory.limit, "unknown");
}

static void this_process_uses_memory(void **state) {
    (void)state;
    assert_true(resident_bytes() > 100000);
    assert_true(peak_resident_bytes() >= resident_bytes() / 2);
    assert_true(host_memory().available_bytes > 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_machine_without_groups),
        cmocka_unit_test(a_group_of_version_2_counts_its_cache_as_free),
        cmocka_unit_test(a_tighter_group_above_decides),
        cmocka_unit_test(a_full_group_leaves_nothing),
        cmocka_unit_test(version_1_and_a_mount_that_hides_the_host),
        cmocka_unit_test(paths_that_lead_outside_are_not_followed),
        cmocka_unit_test(nothing_known_is_no_limit),
        cmocka_unit_test(this_process_uses_memory),
    };
    return cmocka_run_group_tests(tests, make_root, remove_root);
}
