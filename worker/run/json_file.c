#include "worker/run/json_file.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpoint/file_io.h"
#include "kernels/utf8.h"

enum { MOST_BYTES = 16 << 20 };

// The name of a new file beside `path`, which no other process takes.
static bool name_beside(const char *path, char temporary[PATH_MAX]) {
    char host[64] = "host";
    gethostname(host, sizeof host - 1);
    return snprintf(temporary, PATH_MAX, "%s.%s.%ld.tmp", path, host, (long)getpid()) < PATH_MAX;
}

// The object's line, to be freed by the caller, or NULL. Gives `object` back.
static char *text_of(json_t *object, size_t *bytes) {
    char *text = object ? json_dumps(object, JSON_COMPACT | JSON_PRESERVE_ORDER) : NULL;
    *bytes = text ? strlen(text) + 1 : 0;
    if (text) text[*bytes - 1] = '\n'; // in the place of the NUL
    json_decref(object);
    return text;
}

bool json_file_replace(const char *path, json_t *object) {
    char temporary[PATH_MAX];
    size_t bytes;
    Error err;
    char *text = text_of(object, &bytes);
    bool ok =
        text && name_beside(path, temporary) && file_replace(path, temporary, text, bytes, &err);
    free(text);
    return ok;
}

bool json_file_create(const char *path, json_t *object) {
    char temporary[PATH_MAX];
    size_t bytes;
    Error err;
    char *text = text_of(object, &bytes);
    bool ok = text && name_beside(path, temporary) && file_make(temporary, text, bytes, &err);
    free(text);
    if (!ok) return false;
    ok = file_link(temporary, path, &err);
    // A file system without hard links has the first look decide.
    if (!ok && access(path, F_OK) != 0) ok = file_rename(temporary, path, &err);
    file_remove(temporary, &err);
    return ok;
}

json_t *json_file_read(const char *path) {
    Error err;
    struct stat info;
    int fd = file_open_to_read(path, &err);
    if (fd < 0) return NULL;
    bool ok = fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && info.st_size <= MOST_BYTES;
    char *text = ok ? malloc((size_t)info.st_size + 1) : NULL;
    int64_t bytes = text ? file_read_some(fd, text, (size_t)info.st_size, 0, &err) : -1;
    close(fd);
    json_t *object = bytes >= 0 ? json_loadb(text, (size_t)bytes, 0, NULL) : NULL;
    free(text);
    if (json_is_object(object)) return object;
    json_decref(object);
    return NULL;
}

json_t *json_file_load(const char *path, int64_t most, ExitCode damaged, Error *err) {
    struct stat info;
    json_error_t wrong = {0};
    json_t *object = NULL;
    int fd = file_open_to_read(path, err);
    if (fd < 0) return NULL;
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode) || info.st_size > most) {
        close(fd);
        error_set(err, damaged, "it is no file of at most %lld bytes", (long long)most);
        return NULL;
    }
    char *text = malloc((size_t)info.st_size + 1);
    CHECK_MEMORY(text, "no memory for %lld bytes", (long long)info.st_size);
    int64_t bytes = file_read_some(fd, text, (size_t)info.st_size, 0, err);
    close(fd);
    if (bytes >= 0) object = json_loadb(text, (size_t)bytes, JSON_REJECT_DUPLICATES, &wrong);
    free(text);
    if (json_is_object(object)) return object;
    if (bytes >= 0)
        error_set(err, damaged, "line %d: %s", wrong.line, object ? "no object" : wrong.text);
    json_decref(object);
    return NULL;
}

json_t *json_text(const char *bytes) {
    char printable[8192];
    utf8_make_printable(bytes, printable, sizeof printable);
    return json_string(printable);
}

json_t *json_file_rows(const char *path) {
    char *line = NULL;
    size_t room = 0;
    json_t *rows = json_array();
    FILE *file = fopen(path, "r");
    if (!file) return rows;
    for (ssize_t length; (length = getline(&line, &room, file)) > 0;) {
        json_t *row = json_loadb(line, (size_t)length, 0, NULL);
        if (row) json_array_append_new(rows, row);
    }
    free(line);
    fclose(file);
    return rows;
}
