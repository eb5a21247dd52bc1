#include "kernels/host_memory.h"

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "kernels/cgroup.h"

// The number behind a word at the beginning of a line, or at the beginning of the file with the
// word "". False for "max" and where there is no such file (NULL), which is closed.
static bool read_number(FILE *file, const char *word, uint64_t *value) {
    char line[256];
    size_t length = strlen(word);
    bool found = false;
    while (file && !found && fgets(line, sizeof line, file)) {
        unsigned long long number;
        if (strncmp(line, word, length) != 0 || sscanf(line + length, " %llu", &number) != 1)
            continue;
        *value = number;
        found = true;
    }
    if (file) fclose(file);
    return found;
}

static void take_less(HostMemory *memory, size_t *share, size_t bytes, const char *limit) {
    if (bytes < *share) *share = bytes;
    if (bytes >= memory->available_bytes) return;
    memory->available_bytes = bytes;
    snprintf(memory->limit, sizeof memory->limit, "%s", limit);
}

// What one control group leaves; false when it has no limit. Pages of files count as used there,
// but are given back on demand.
static bool group_leaves(const Cgroup *group, int version, size_t *bytes) {
    uint64_t limit, usage, cache = 0;
    bool v2 = version == 2;
    if (!read_number(cgroup_file(group, v2 ? "memory.max" : "memory.limit_in_bytes"), "", &limit) ||
        limit >= (uint64_t)1 << 60) // "none" in version 1
        return false;
    if (!read_number(cgroup_file(group, v2 ? "memory.current" : "memory.usage_in_bytes"), "",
                     &usage))
        return false;
    read_number(cgroup_file(group, "memory.stat"), v2 ? "inactive_file" : "total_inactive_file",
                &cache);
    if (cache > usage) cache = usage;
    usage -= cache;
    *bytes = (size_t)(limit > usage ? limit - usage : 0);
    return true;
}

// From the process's own group up to the outermost: each may have a limit.
static void read_groups(HostMemory *memory, const char *root) {
    memory->own_group = cgroup_key(root, "memory");
    for (int version = 1; version <= 2; version++) {
        Cgroup group;
        bool own = true;
        for (bool more = cgroup_open(&group, root, version, "memory"); more;
             more = cgroup_up(&group), own = false) {
            size_t bytes;
            char limit[HOST_MEMORY_LIMIT_BYTES];
            if (!group_leaves(&group, version, &bytes)) continue;
            snprintf(limit, sizeof limit, "%.120s/%s", group.folder,
                     version == 2 ? "memory.max" : "memory.limit_in_bytes");
            bool alone = own && !cgroup_is_outermost(&group);
            take_less(memory, alone ? &memory->own_bytes : &memory->shared_bytes, bytes, limit);
        }
    }
}

HostMemory host_memory_below(const char *root) {
    HostMemory memory = {
        .available_bytes = SIZE_MAX, .own_bytes = SIZE_MAX, .shared_bytes = SIZE_MAX};
    snprintf(memory.limit, sizeof memory.limit, "unknown");
    char path[PATH_MAX];
    uint64_t kib;
    snprintf(path, sizeof path, "%s/proc/meminfo", root);
    if (read_number(fopen(path, "r"), "MemAvailable:", &kib))
        take_less(&memory, &memory.shared_bytes, (size_t)kib * 1024, "the machine");
    read_groups(&memory, root);
    return memory;
}

HostMemory host_memory(void) {
    return host_memory_below("");
}

size_t resident_bytes(void) {
    long pages = 0, ignored;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file) return 0;
    if (fscanf(file, "%ld %ld", &ignored, &pages) != 2) pages = 0;
    fclose(file);
    return (size_t)pages * (size_t)sysconf(_SC_PAGESIZE);
}

size_t peak_resident_bytes(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (size_t)usage.ru_maxrss * 1024;
}
