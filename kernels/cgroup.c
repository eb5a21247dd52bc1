#include "kernels/cgroup.h"

#include <string.h>

enum { LINE_BYTES = 2048 };

static FILE *open_below(const char *root, const char *folder, const char *file) {
    char name[CGROUP_PATH_BYTES + LINE_BYTES];
    if (snprintf(name, sizeof name, "%s%s/%s", root, folder, file) >= (int)sizeof name) return NULL;
    return fopen(name, "r");
}

static bool has_word(const char *list, const char *word) { // "cpu,cpuacct"
    size_t length = strlen(word);
    for (const char *at = list; (at = strstr(at, word)); at += length) {
        bool begins = at == list || at[-1] == ',';
        if (begins && (at[length] == ',' || at[length] == 0)) return true;
    }
    return false;
}

// The group's path as /proc/self/cgroup names it: lines of NUMBER:CONTROLLERS:/PATH.
static bool own_path(const char *root, int version, const char *controller, char path[LINE_BYTES]) {
    char line[LINE_BYTES];
    bool found = false;
    FILE *file = open_below(root, "/proc/self", "cgroup");
    while (file && !found && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        char *controllers = strchr(line, ':');
        char *name = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!name) continue;
        *controllers++ = *name++ = 0;
        found = version == 2 ? strcmp(line, "0") == 0 && !controllers[0]
                             : has_word(controllers, controller);
        if (found) snprintf(path, LINE_BYTES, "%s", name);
    }
    if (file) fclose(file);
    return found;
}

// Where that hierarchy is mounted, and which of its groups stands there (in a container not the
// topmost).
static bool find_mount(const char *root, int version, const char *controller, char at[LINE_BYTES],
                       char top[LINE_BYTES]) {
    char line[LINE_BYTES], type[64], options[LINE_BYTES];
    bool found = false;
    FILE *file = open_below(root, "/proc/self", "mountinfo");
    while (file && !found && fgets(line, sizeof line, file)) {
        char *rest = strstr(line, " - "); // after any number of optional fields
        if (!rest || sscanf(line, "%*s %*s %*s %2047s %2047s", top, at) != 2 ||
            sscanf(rest, " - %63s %*s %2047s", type, options) != 2)
            continue;
        found = version == 2 ? strcmp(type, "cgroup2") == 0
                             : strcmp(type, "cgroup") == 0 && has_word(options, controller);
    }
    if (file) fclose(file);
    return found;
}

bool cgroup_open(Cgroup *group, const char *root, int version, const char *controller) {
    char own[LINE_BYTES], at[LINE_BYTES], top[LINE_BYTES];
    if (!own_path(root, version, controller, own) ||
        !find_mount(root, version, controller, at, top))
        return false;
    size_t shared = strcmp(top, "/") == 0 ? 0 : strlen(top);
    bool below = strncmp(own, top, shared) == 0 && (own[shared] == '/' || own[shared] == 0);
    // A path that does not lie below the mounted one belongs to another name space: what is mounted
    // is ours.
    const char *path = below && !strstr(own, "/..") ? own + shared : "";
    *group = (Cgroup){.root = root, .mount_length = strlen(at)};
    size_t length = (size_t)snprintf(group->folder, sizeof group->folder, "%s%s", at, path);
    while (length > group->mount_length && group->folder[length - 1] == '/')
        group->folder[--length] = 0;
    return true;
}

bool cgroup_is_outermost(const Cgroup *group) {
    return strlen(group->folder) <= group->mount_length;
}

bool cgroup_up(Cgroup *group) {
    if (cgroup_is_outermost(group)) return false;
    *strrchr(group->folder, '/') = 0;
    return true;
}

FILE *cgroup_file(const Cgroup *group, const char *name) {
    return open_below(group->root, group->folder, name);
}

uint64_t cgroup_key(const char *root, const char *controller) {
    char path[LINE_BYTES];
    uint64_t key = 14695981039346656037u; // FNV-1a
    for (int version = 1; version <= 2; version++)
        for (const char *c = own_path(root, version, controller, path) ? path : ""; *c; c++)
            key = (key ^ (unsigned char)*c) * 1099511628211u;
    return key;
}
