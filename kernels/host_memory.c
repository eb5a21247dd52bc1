#include "kernels/host_memory.h"

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

// The number that a file begins with; false for "max" and where there is no such file.
static bool read_number(const char *path, uint64_t *value) {
    FILE *file = fopen(path, "r");
    if (!file) return false;
    unsigned long long number;
    bool found = fscanf(file, "%llu", &number) == 1;
    fclose(file);
    if (found) *value = number;
    return found;
}

// The number behind a word at the beginning of a line.
static bool read_field(const char *path, const char *word, uint64_t *value) {
    FILE *file = fopen(path, "r");
    if (!file) return false;
    char line[256];
    size_t length = strlen(word);
    bool found = false;
    while (!found && fgets(line, sizeof line, file)) {
        unsigned long long number;
        if (strncmp(line, word, length) != 0 || sscanf(line + length, " %llu", &number) != 1)
            continue;
        *value = number;
        found = true;
    }
    fclose(file);
    return found;
}

static void take_less(HostMemory *memory, size_t *share, size_t bytes, const char *limit) {
    if (bytes < *share) *share = bytes;
    if (bytes >= memory->available_bytes) return;
    memory->available_bytes = bytes;
    snprintf(memory->limit, sizeof memory->limit, "%s", limit);
}

static uint64_t number_of(const char *text) { // FNV-1a
    uint64_t hash = 0xcbf29ce484222325u;
    for (; *text; text++) hash = (hash ^ (unsigned char)*text) * 0x100000001b3u;
    return hash;
}

// What one control group leaves; false when it has no limit. Pages of files count as used there, but are given back on demand.
static bool group_leaves(const char *folder, const char *limit_file, const char *usage_file,
                         const char *cache_field, size_t *bytes) {
    char path[PATH_MAX + 64];
    uint64_t limit, usage, cache = 0;
    snprintf(path, sizeof path, "%s/%s", folder, limit_file);
    if (!read_number(path, &limit) || limit >= (uint64_t)1 << 60) return false; // "none" in version 1
    snprintf(path, sizeof path, "%s/%s", folder, usage_file);
    if (!read_number(path, &usage)) return false;
    snprintf(path, sizeof path, "%s/memory.stat", folder);
    read_field(path, cache_field, &cache);
    if (cache > usage) cache = usage;
    usage -= cache;
    *bytes = (size_t)(limit > usage ? limit - usage : 0);
    return true;
}

// From the process's own group up to the root: each may have a limit. Inside a container the mount often shows the
// container's group as the root, while /proc names the path on the host: folders that are not there are passed over.
static void walk_groups(HostMemory *memory, const char *mount, const char *group, bool version_2) {
    char folder[PATH_MAX], limit[HOST_MEMORY_LIMIT_BYTES];
    const char *limit_file = version_2 ? "memory.max" : "memory.limit_in_bytes";
    const char *usage_file = version_2 ? "memory.current" : "memory.usage_in_bytes";
    const char *cache_field = version_2 ? "inactive_file" : "total_inactive_file";
    if (strstr(group, "..")) group = ""; // outside what this process can see
    if (snprintf(folder, sizeof folder, "%s%s", mount, group) >= (int)sizeof folder) return;
    for (bool own = true;; own = false) {
        size_t length = strlen(folder), bytes;
        while (length > strlen(mount) && folder[length - 1] == '/') folder[--length] = 0;
        if (group_leaves(folder, limit_file, usage_file, cache_field, &bytes)) {
            snprintf(limit, sizeof limit, "%.120s/%s", folder, limit_file);
            bool alone = own && length > strlen(mount);
            take_less(memory, alone ? &memory->own_bytes : &memory->shared_bytes, bytes, limit);
        }
        if (length <= strlen(mount)) return;
        *strrchr(folder, '/') = 0;
    }
}

static void read_groups(HostMemory *memory, const char *root) {
    char path[PATH_MAX], line[PATH_MAX], mount[PATH_MAX];
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *file = fopen(path, "r");
    if (!file) return;
    while (fgets(line, sizeof line, file)) { // NUMBER:CONTROLLERS:/PATH
        line[strcspn(line, "\n")] = 0;
        char *controllers = strchr(line, ':');
        char *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group) continue;
        *group++ = 0;
        controllers++;
        bool version_2 = controllers[0] == 0;
        if (!version_2 && strcmp(controllers, "memory") != 0) continue;
        memory->own_group ^= number_of(group);
        snprintf(mount, sizeof mount, "%s/sys/fs/cgroup%s", root, version_2 ? "" : "/memory");
        walk_groups(memory, mount, group, version_2);
    }
    fclose(file);
}

HostMemory host_memory_below(const char *root) {
    HostMemory memory = {
        .available_bytes = SIZE_MAX, .own_bytes = SIZE_MAX, .shared_bytes = SIZE_MAX};
    snprintf(memory.limit, sizeof memory.limit, "unknown");
    char path[PATH_MAX];
    uint64_t kib;
    snprintf(path, sizeof path, "%s/proc/meminfo", root);
    if (read_field(path, "MemAvailable:", &kib))
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
