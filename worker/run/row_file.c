#include "worker/run/row_file.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpoint/file_io.h"
#include "kernels/log.h"

struct RowFile {
    char path[PATH_MAX];
    int fd; // -1: could not be opened again
    dev_t device;
    ino_t inode;
    int64_t whole;   // length up to which all lines are whole, while torn
    bool torn;       // a part of a row is behind it
    int64_t missing; // rows lost since the last one that was written
};

// ---- what is in the file already ----------------------------------------------------------------

typedef enum Line { LINE_KEPT, LINE_LATER, LINE_DAMAGED } Line;

static Line judge_line(const char *line, size_t bytes, int64_t last_step) {
    json_t *row = json_loadb(line, bytes, 0, NULL);
    const json_t *step = json_object_get(row, "step");
    Line verdict = !json_is_object(row) ? LINE_DAMAGED
                   : json_is_number(step) && json_number_value(step) > (double)last_step
                       ? LINE_LATER
                       : LINE_KEPT;
    json_decref(row);
    return verdict;
}

typedef struct Survey {
    int64_t head;    // bytes of the kept lines before the first other one
    int64_t damaged; // lines, a torn last one not counted
    bool scattered;  // kept lines lie behind others, or the last has no newline
} Survey;

// Kept lines on their way into a new file.
typedef struct Copy {
    int fd;
    bool ok;
    size_t bytes;
    char piece[65536];
    Error err;
} Copy;

static void copy_flush(Copy *copy) {
    copy->ok = copy->ok && file_write(copy->fd, copy->piece, copy->bytes, NULL, &copy->err);
    copy->bytes = 0;
}

static void copy_line(Copy *copy, const char *line, size_t bytes) {
    while (bytes > 0) {
        size_t room = sizeof copy->piece - copy->bytes, part = bytes < room ? bytes : room;
        memcpy(copy->piece + copy->bytes, line, part);
        copy->bytes += part;
        line += part;
        bytes -= part;
        if (copy->bytes == sizeof copy->piece) copy_flush(copy);
    }
}

// Looks at every line; the kept ones are copied to `copy` unless it is NULL.
static Survey survey_lines(FILE *file, int64_t last_step, Copy *copy) {
    Survey survey = {0};
    char *line = NULL;
    size_t room = 0;
    bool other = false;
    rewind(file);
    for (ssize_t length; (length = getline(&line, &room, file)) > 0;) {
        bool ended = line[length - 1] == '\n';
        Line verdict = judge_line(line, (size_t)length, last_step);
        if (verdict == LINE_KEPT) {
            survey.scattered = survey.scattered || other || !ended;
            if (!other) survey.head += length;
            if (copy) copy_line(copy, line, (size_t)length);
            if (copy && !ended) copy_line(copy, "\n", 1);
        }
        other = other || verdict != LINE_KEPT;
        survey.damaged += verdict == LINE_DAMAGED && ended && length > 1;
    }
    free(line);
    return survey;
}

// The kept lines as a new file in the place of the old one.
static bool rewrite(const char *path, FILE *file, int64_t last_step, Error *err) {
    char temporary[PATH_MAX + 8];
    Error ignored;
    snprintf(temporary, sizeof temporary, "%s.tmp", path);
    file_remove(temporary, &ignored); // of a crash
    int fd = file_open(temporary, O_WRONLY | O_CREAT, err);
    if (fd < 0) return false;
    Copy *copy = calloc(1, sizeof *copy);
    CHECK_MEMORY(copy, "no memory for a piece of %s", path);
    copy->fd = fd;
    copy->ok = true;
    survey_lines(file, last_step, copy);
    copy_flush(copy);
    bool ok = copy->ok;
    if (!ok) *err = copy->err;
    if (ok && ferror(file)) ok = error_set(err, EXIT_IO, "cannot read %s", path);
    if (close(fd) != 0 && ok) ok = error_set(err, EXIT_IO, "cannot write: %s", strerror(errno));
    if (!ok) error_prefix(err, "%s", temporary);
    ok = ok && file_rename(temporary, path, err);
    if (!ok) file_remove(temporary, &ignored);
    free(copy);
    return ok;
}

// ---- opening ------------------------------------------------------------------------------------

static int open_for_rows(const char *path, struct stat *info, Error *err) {
    int fd = file_open_or_make(path, O_RDWR | O_APPEND, err);
    if (fd >= 0 && (fstat(fd, info) != 0 || !S_ISREG(info->st_mode))) {
        error_set(err, EXIT_IO, "%s: is not a regular file; move it away", path);
        close(fd);
        fd = -1;
    }
    return fd;
}

// Sets fd, device and inode; on failure fd is -1.
static bool open_and_clean(RowFile *rows, int64_t last_step, Error *err) {
    struct stat info;
    rows->torn = false;
    rows->fd = open_for_rows(rows->path, &info, err);
    if (rows->fd < 0) return false;
    bool ok = false;
    int duplicate = dup(rows->fd);
    FILE *file = duplicate >= 0 ? fdopen(duplicate, "r") : NULL;
    CHECK(file, "%s: %s", rows->path, strerror(errno));
    Survey survey = survey_lines(file, last_step, NULL);
    if (ferror(file)) {
        error_set(err, EXIT_IO, "%s: cannot read: %s", rows->path, strerror(errno));
    } else if (survey.scattered || info.st_nlink > 1) { // a copy by hard links shares the bytes
        close(rows->fd);
        rows->fd = -1;
        ok = rewrite(rows->path, file, last_step, err) &&
             (rows->fd = open_for_rows(rows->path, &info, err)) >= 0;
    } else {
        ok =
            survey.head == info.st_size || file_set_length(rows->fd, survey.head, err) ||
            error_prefix(err, "%s: cannot cut back to step %lld", rows->path, (long long)last_step);
    }
    fclose(file);
    if (ok && survey.damaged)
        log_warn("%s: %lld lines were no JSON objects and are taken out", rows->path,
                 (long long)survey.damaged);
    if (!ok && rows->fd >= 0) close(rows->fd);
    if (!ok) rows->fd = -1;
    rows->device = info.st_dev;
    rows->inode = info.st_ino;
    return ok;
}

bool row_file_open(RowFile **rows, const char *path, int64_t last_step, Error *err) {
    RowFile *opened = calloc(1, sizeof *opened);
    CHECK_MEMORY(opened, "no memory for %s", path);
    if (snprintf(opened->path, sizeof opened->path, "%s", path) >= PATH_MAX) {
        free(opened);
        return error_set(err, EXIT_IO, "path too long: %.60s...", path);
    }
    if (!open_and_clean(opened, last_step, err)) {
        free(opened);
        return false;
    }
    *rows = opened;
    return true;
}

void row_file_close(RowFile *rows) {
    if (!rows) return;
    if (rows->fd >= 0) close(rows->fd);
    free(rows);
}

// ---- appending ----------------------------------------------------------------------------------

// The file of that name is still the one we write to; otherwise that one, or a new one, is opened.
static bool follow_the_name(RowFile *rows, Error *err) {
    struct stat info;
    bool there = lstat(rows->path, &info) == 0;
    if (!there && errno != ENOENT && errno != ENOTDIR)
        return error_set(err, EXIT_IO, "%s: cannot write: %s", rows->path, strerror(errno));
    if (rows->fd >= 0 && there && info.st_dev == rows->device && info.st_ino == rows->inode)
        return true;
    if (rows->fd >= 0) {
        close(rows->fd);
        log_warn("%s was %s while it was written to; rows go to a %s file from now on", rows->path,
                 there ? "replaced" : "removed or moved away", there ? "new" : "new, empty");
    }
    return open_and_clean(rows, INT64_MAX, err);
}

// Whether the part of a row that lies behind the whole ones is gone.
static bool cut_back(const RowFile *rows) {
    Error ignored;
    return file_set_length(rows->fd, rows->whole, &ignored);
}

static bool append_whole(RowFile *rows, const char *row, Error *err) {
    size_t bytes = strlen(row), written = 0;
    if (!follow_the_name(rows, err)) return false;
    rows->torn = rows->torn && !cut_back(rows);
    if (rows->torn)
        return error_set(err, EXIT_IO, "%s: cannot write: a part of a row stays", rows->path);
    rows->whole = lseek(rows->fd, 0, SEEK_END);
    if (file_write(rows->fd, row, bytes, &written, err)) return true;
    rows->torn = written > 0 && !cut_back(rows);
    return error_prefix(err, "%s", rows->path);
}

void row_file_append(RowFile *rows, const char *row) {
    Error err = {0};
    if (append_whole(rows, row, &err)) {
        if (rows->missing)
            log_warn("%s is written again; %lld rows are missing", rows->path,
                     (long long)rows->missing);
        rows->missing = 0;
    } else if (rows->missing++ == 0) {
        log_warn("%s; training goes on, and rows are missing until it can be written", err.message);
    }
}
