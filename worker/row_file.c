#include "worker/row_file.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

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

// Looks at every line; the kept ones are copied to `copy` unless it is NULL.
static Survey survey_lines(FILE *file, int64_t last_step, FILE *copy) {
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
            if (copy) fprintf(copy, "%.*s\n", (int)(ended ? length - 1 : length), line);
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
    snprintf(temporary, sizeof temporary, "%s.tmp", path);
    unlink(temporary); // of a crash; O_EXCL then follows no link that takes its place
    int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    FILE *copy = fd >= 0 ? fdopen(fd, "w") : NULL;
    if (copy) survey_lines(file, last_step, copy);
    bool ok = copy && !ferror(file) && !ferror(copy);
    if (copy && fclose(copy) != 0) ok = false;
    ok = ok && rename(temporary, path) == 0;
    if (!ok) error_set(err, EXIT_IO, "%s: cannot write: %s", temporary, strerror(errno));
    if (!ok && fd >= 0) unlink(temporary);
    return ok;
}

// ---- opening ------------------------------------------------------------------------------------

static int open_for_rows(const char *path, struct stat *info, Error *err) {
    int fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0666);
    if (fd < 0) {
        error_set(err, EXIT_IO, "%s: cannot open for writing: %s", path,
                  errno == ELOOP
                      ? "it is a symbolic link, which is not written through; move it away"
                      : strerror(errno));
    } else if (fstat(fd, info) != 0 || !S_ISREG(info->st_mode)) {
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
        ok = survey.head == info.st_size || ftruncate(rows->fd, survey.head) == 0 ||
             error_set(err, EXIT_IO, "%s: cannot cut back to step %lld: %s", rows->path,
                       (long long)last_step, strerror(errno));
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

static bool append_whole(RowFile *rows, const char *row, Error *err) {
    size_t bytes = strlen(row);
    ssize_t written = -1;
    if (!follow_the_name(rows, err)) return false;
    rows->torn = rows->torn && ftruncate(rows->fd, rows->whole) != 0;
    if (!rows->torn) {
        rows->whole = lseek(rows->fd, 0, SEEK_END);
        do {
            written = write(rows->fd, row, bytes);
        } while (written < 0 && errno == EINTR);
    }
    if (written == (ssize_t)bytes) return true;
    int cause = written < 0 ? errno : ENOSPC;
    rows->torn = rows->torn || (written > 0 && ftruncate(rows->fd, rows->whole) != 0);
    return error_set(err, EXIT_IO, "%s: cannot write: %s", rows->path, strerror(cause));
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
