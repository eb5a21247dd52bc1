#include "worker/run_dir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "checkpoint/file_io.h"

enum { PATH_BYTES = 1280 };

bool run_dir_open(const char *run_dir, Error *err) {
    Error cause = {0};
    if (!directory_make(run_dir, &cause))
        return error_set(err, EXIT_IO, "run.dir %s: %s; choose a folder that can be written",
                         run_dir, cause.message);
    if (access(run_dir, W_OK | X_OK) == 0) return true;
    return error_set(err, EXIT_IO,
                     "run.dir %s: cannot write: %s; choose a folder that can be written", run_dir,
                     strerror(errno));
}

// The text with its line of run.dir replaced.
static bool write_portable(FILE *file, const char *config_yaml) {
    static const char key[] = "run.dir: ";
    const char *line = strstr(config_yaml, key);
    if (!line || (line > config_yaml && line[-1] != '\n')) return fputs(config_yaml, file) >= 0;
    const char *rest = line + strcspn(line, "\n");
    return fprintf(file, "%.*s%s\".\"%s", (int)(line - config_yaml), config_yaml, key, rest) >= 0;
}

bool run_dir_write_config(const char *run_dir, const char *config_yaml, Error *err) {
    char path[PATH_BYTES], temporary[PATH_BYTES + 8];
    snprintf(path, sizeof path, "%s/config.yaml", run_dir);
    snprintf(temporary, sizeof temporary, "%s.tmp", path);
    unlink(temporary); // of a crash; O_EXCL then follows no link that takes its place
    int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    FILE *file = fd >= 0 ? fdopen(fd, "w") : NULL;
    bool ok = file && write_portable(file, config_yaml);
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
