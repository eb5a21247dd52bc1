#include "worker/json_file.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernels/utf8.h"

enum { MOST_BYTES = 16 << 20 };

// The object as a new file beside `path`, whose name no other process takes. Gives `object` back.
static bool write_beside(const char *path, json_t *object, char temporary[PATH_MAX]) {
    char host[64] = "host";
    gethostname(host, sizeof host - 1);
    int length = snprintf(temporary, PATH_MAX, "%s.%s.%ld.tmp", path, host, (long)getpid());
    bool ok = object && length < PATH_MAX;
    if (ok) unlink(temporary); // of a crash; O_EXCL then follows no link that takes its place
    int fd = ok ? open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666) : -1;
    char *text = ok && fd >= 0 ? json_dumps(object, JSON_COMPACT | JSON_PRESERVE_ORDER) : NULL;
    size_t bytes = text ? strlen(text) : 0;
    ok = text && write(fd, text, bytes) == (ssize_t)bytes && write(fd, "\n", 1) == 1;
    if (fd >= 0 && close(fd) != 0) ok = false;
    if (!ok && fd >= 0) unlink(temporary);
    free(text);
    json_decref(object);
    return ok;
}

bool json_file_replace(const char *path, json_t *object) {
    char temporary[PATH_MAX];
    if (!write_beside(path, object, temporary)) return false;
    if (rename(temporary, path) == 0) return true;
    unlink(temporary);
    return false;
}

bool json_file_create(const char *path, json_t *object) {
    char temporary[PATH_MAX];
    if (!write_beside(path, object, temporary)) return false;
    bool ok = link(temporary, path) == 0;
    // A file system without hard links has the first look decide.
    if (!ok && access(path, F_OK) != 0) ok = rename(temporary, path) == 0;
    unlink(temporary);
    return ok;
}

json_t *json_file_read(const char *path) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return NULL;
    struct stat info;
    json_t *object = NULL;
    bool ok = fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && info.st_size <= MOST_BYTES;
    if (ok) object = json_loadfd(fd, 0, NULL);
    close(fd);
    if (json_is_object(object)) return object;
    json_decref(object);
    return NULL;
}

json_t *json_text(const char *bytes) {
    char printable[8192];
    utf8_make_printable(bytes, printable, sizeof printable);
    return json_string(printable);
}
