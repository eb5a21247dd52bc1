#include "checkpoint/temporary_name.h"

#include <dirent.h>
#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpoint/file_io.h"

static const char END[] = ".tmp";

static bool must_be_new(const char *path, Error *err) {
    struct stat info;
    return lstat(path, &info) != 0 ||
           error_set(err, EXIT_IO, "%s exists; remove it or choose another name", path);
}

bool temporary_name_remove(const char *temporary, Error *err) {
    DIR *folder = opendir(temporary);
    bool ok = true;
    if (!folder) return file_remove(temporary, err);
    for (struct dirent *entry; ok && (entry = readdir(folder));) {
        char name[PATH_MAX];
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        snprintf(name, sizeof name, "%s/%s", temporary, entry->d_name);
        ok = file_remove(name, err);
    }
    closedir(folder);
    return ok && directory_remove(temporary, err);
}

// The process of this host that an entry of the folder is of: `begin`PID.tmp. 0: none.
static long maker_of(const char *name, const char *begin) {
    size_t length = strlen(begin);
    if (strncmp(name, begin, length) != 0) return 0;
    char *end = NULL;
    long process = strtol(name + length, &end, 10);
    return strcmp(end, END) == 0 && process > 0 ? process : 0;
}

// What other processes of this host have made, or are making: removed, or an error.
static bool clear_others(const char *folder, const char *begin, Error *err) {
    DIR *entries = opendir(folder);
    bool ok = true;
    if (!entries) return true; // what is made there says why
    for (struct dirent *entry; ok && (entry = readdir(entries));) {
        long process = maker_of(entry->d_name, begin);
        if (process == 0) continue;
        char path[PATH_MAX];
        Error ignored;
        bool lives = process != getpid() && (kill((pid_t)process, 0) == 0 || errno == EPERM);
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        if (lives)
            ok = error_set(err, EXIT_IO,
                           "process %ld is making it, in %s; wait for that or choose another name",
                           process, path);
        else
            temporary_name_remove(path, &ignored);
    }
    closedir(entries);
    return ok;
}

bool temporary_name_take(char *temporary, size_t bytes, const char *path, Error *err) {
    char host[65] = "", begin[PATH_MAX], folder[PATH_MAX], name[PATH_MAX];
    gethostname(host, sizeof host - 1);
    bool fits =
        snprintf(folder, sizeof folder, "%s", path) < (int)sizeof folder &&
        snprintf(temporary, bytes, "%s.%s.%ld%s", path, host, (long)getpid(), END) < (int)bytes;
    if (!fits) return error_set(err, EXIT_IO, "path too long: %.60s...", path);
    snprintf(name, sizeof name, "%s", path);
    snprintf(begin, sizeof begin, "%s.%s.", basename(name), host);
    if (!must_be_new(path, err)) return false;
    return clear_others(dirname(folder), begin, err) || error_prefix(err, "%s", path);
}

bool temporary_name_publish(const char *temporary, const char *path, Error *err) {
    return must_be_new(path, err) && file_rename(temporary, path, err);
}
