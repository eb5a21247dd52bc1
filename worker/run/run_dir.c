#include "worker/run/run_dir.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
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

char *run_dir_portable_config(const char *config_yaml) {
    static const char key[] = "run.dir: ";
    char *text = NULL;
    const char *line = strstr(config_yaml, key);
    if (!line || (line > config_yaml && line[-1] != '\n')) {
        text = strdup(config_yaml);
    } else {
        const char *rest = line + strcspn(line, "\n");
        int head = (int)(line - config_yaml);
        if (asprintf(&text, "%.*s%s\".\"%s", head, config_yaml, key, rest) < 0) text = NULL;
    }
    CHECK_MEMORY(text, "no memory for a configuration of %zu bytes", strlen(config_yaml));
    return text;
}

bool run_dir_write_config(const char *run_dir, const char *config_yaml, Error *err) {
    char path[PATH_BYTES], temporary[PATH_BYTES + 8];
    snprintf(path, sizeof path, "%s/config.yaml", run_dir);
    snprintf(temporary, sizeof temporary, "%s.tmp", path);
    char *text = run_dir_portable_config(config_yaml);
    bool ok =
        file_replace(path, temporary, text, strlen(text), err) || error_prefix(err, "%s", path);
    free(text);
    return ok;
}
