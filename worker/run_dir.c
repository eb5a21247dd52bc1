#include "worker/run_dir.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_BYTES = 1280 };

// mkdir -p
static bool make_folders(const char *path, Error *err) {
    char part[PATH_BYTES];
    snprintf(part, sizeof part, "%s", path);
    for (char *c = part + 1;; c++) {
        if (*c != '/' && *c != 0) continue;
        char kept = *c;
        *c = 0;
        if (mkdir(part, 0777) != 0 && errno != EEXIST)
            return error_set(
                err, EXIT_IO,
                "run.dir %s: cannot create %s: %s; choose a folder that can be written", path, part,
                strerror(errno));
        if (kept == 0) return true;
        *c = kept;
    }
}

bool run_dir_open(const char *run_dir, Error *err) {
    if (!make_folders(run_dir, err)) return false;
    if (access(run_dir, W_OK | X_OK) == 0) return true;
    return error_set(err, EXIT_IO,
                     "run.dir %s: cannot write: %s; choose a folder that can be written", run_dir,
                     strerror(errno));
}

bool run_dir_write_config(const char *run_dir, const char *config_yaml, Error *err) {
    char path[PATH_BYTES], temporary[PATH_BYTES + 8];
    snprintf(path, sizeof path, "%s/config.yaml", run_dir);
    snprintf(temporary, sizeof temporary, "%s.tmp", path);
    FILE *file = fopen(temporary, "w");
    bool ok = file && fputs(config_yaml, file) >= 0;
    int cause = errno;
    if (file && fclose(file) != 0) {
        ok = false;
        cause = errno;
    }
    if (ok && rename(temporary, path) != 0) {
        ok = false;
        cause = errno;
    }
    if (ok) return true;
    unlink(temporary);
    return error_set(err, EXIT_IO, "%s: cannot write: %s", path, strerror(cause));
}

bool run_dir_has_checkpoints(const char *run_dir) {
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/checkpoints", run_dir);
    DIR *dir = opendir(path);
    if (!dir) return false;
    bool found = false;
    for (struct dirent *entry; !found && (entry = readdir(dir));) {
        size_t length = strlen(entry->d_name);
        found = strncmp(entry->d_name, "step-", 5) == 0 && length > 8 &&
                strcmp(entry->d_name + length - 3, ".h5") == 0;
    }
    closedir(dir);
    return found;
}
