#include "kernels/threads.h"

#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/cgroup.h"

enum { THREADS_MOST = 65536 };

// ---- CPUs ---------------------------------------------------------------------------------------

// The set of CPUs that this process may run on, of any size; NULL: it cannot be asked. *bytes: its
// size. CPU_FREE it.
static cpu_set_t *allowed_cpus(size_t *bytes) {
    for (int cpus = CPU_SETSIZE; cpus <= 1 << 22; cpus *= 2) {
        cpu_set_t *set = CPU_ALLOC((size_t)cpus);
        if (!set) return NULL;
        *bytes = CPU_ALLOC_SIZE((size_t)cpus);
        if (sched_getaffinity(0, *bytes, set) == 0) return set;
        CPU_FREE(set);
        if (errno != EINVAL) return NULL; // EINVAL: the kernel knows more CPUs
    }
    return NULL;
}

static int count_cpus(void) {
    size_t bytes = 0;
    cpu_set_t *set = allowed_cpus(&bytes);
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    int count = set ? CPU_COUNT_S(bytes, set) : (int)(online > 0 ? online : 1);
    CPU_FREE(set);
    return count > 0 ? count : 1;
}

// FNV-1a, one word at a time.
static const uint64_t no_key = 14695981039346656037u;

static uint64_t key_add(uint64_t key, uint64_t word) {
    return (key ^ word) * 1099511628211u;
}

uint64_t threads_cpus_key(void) {
    size_t bytes = 0;
    cpu_set_t *set = allowed_cpus(&bytes);
    uint64_t key = no_key;
    for (size_t cpu = 0; set && cpu < bytes * CHAR_BIT; cpu++)
        if (CPU_ISSET_S(cpu, bytes, set)) key = key_add(key, cpu + 1);
    CPU_FREE(set);
    return key;
}

// ---- cgroups ------------------------------------------------------------------------------------

// The quota of one group; 0: none.
static double group_cpus(const Cgroup *group, int version) {
    char quota[32] = "";
    double period = 0, allowed = 0;
    FILE *file = cgroup_file(group, version == 2 ? "cpu.max" : "cpu.cfs_quota_us");
    if (file) {
        int fields = fscanf(file, "%31s %lf", quota, &period);
        if (fields >= 1) allowed = strtod(quota, NULL); // "max" and -1 are no limit
        fclose(file);
    }
    if (version == 1) {
        file = cgroup_file(group, "cpu.cfs_period_us");
        if (file && fscanf(file, "%lf", &period) != 1) period = 0;
        if (file) fclose(file);
    }
    return allowed > 0 && period > 0 ? allowed / period : 0;
}

double threads_cgroup_cpus(const char *root) {
    double limit = 0;
    for (int version = 1; version <= 2; version++) {
        Cgroup group;
        for (bool more = cgroup_open(&group, root, version, "cpu"); more;
             more = cgroup_up(&group)) {
            double cpus = group_cpus(&group, version);
            if (cpus > 0 && (limit <= 0 || cpus < limit)) limit = cpus;
        }
    }
    return limit;
}

uint64_t threads_cgroup_key(void) {
    return cgroup_key("", "cpu");
}

// ---- the choice ---------------------------------------------------------------------------------

// OMP_NUM_THREADS: a number, or a list of them, one for each nesting level, of which the first is
// ours. 0: none.
static int threads_of_environment(ThreadChoice *choice) {
    const char *text = getenv("OMP_NUM_THREADS");
    if (!text) return 0;
    char *end;
    errno = 0;
    long number = strtol(text, &end, 10);
    bool whole = end != text && strspn(end, " \t") == strcspn(end, ",");
    if (whole && errno == 0 && number > 0 && number <= THREADS_MOST) return (int)number;
    snprintf(choice->warning, sizeof choice->warning,
             "OMP_NUM_THREADS is '%.32s', which is no number of threads: taken as unset", text);
    return 0;
}

// The CPUs, and how many of them fall to a rank when `sharers` have them together: "2 ranks share
// 64 CPUs"
static double share(double cpus, int sharers, const char *what, char *text, size_t bytes) {
    int length = sharers > 1 ? snprintf(text, bytes, "%d ranks share ", sharers) : 0;
    snprintf(text + length, bytes - (size_t)length, "%.4g CPU%s%s", cpus, cpus == 1 ? "" : "s",
             what);
    return cpus / (sharers > 1 ? sharers : 1);
}

ThreadChoice threads_choose(int wanted, int cpu_sharers, int quota_sharers) {
    ThreadChoice choice = {.threads = wanted};
    char quota_reason[sizeof choice.reason];
    double quota = threads_cgroup_cpus("");
    choice.cpus = share(count_cpus(), cpu_sharers, "", choice.reason, sizeof choice.reason);
    if (quota > 0 && share(quota, quota_sharers, " that the cgroup allows", quota_reason,
                           sizeof quota_reason) < choice.cpus) {
        choice.cpus = quota / (quota_sharers > 1 ? quota_sharers : 1);
        memcpy(choice.reason, quota_reason, sizeof quota_reason);
    }
    if (wanted > 0) {
        snprintf(choice.reason, sizeof choice.reason, "train.threads");
        return choice;
    }
    choice.threads = threads_of_environment(&choice);
    if (choice.threads > 0) {
        snprintf(choice.reason, sizeof choice.reason, "OMP_NUM_THREADS");
        return choice;
    }
    // Threads wait for each other, and one that the quota stops stops all: so a fraction of a CPU
    // is left.
    choice.threads = choice.cpus > 1 ? (int)choice.cpus : 1;
    return choice;
}
