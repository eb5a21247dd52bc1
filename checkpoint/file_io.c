#include "checkpoint/file_io.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "kernels/heartbeat.h"

enum { PIECE_BYTES = 16 << 20 }; // of reading and writing between two signs of life

static size_t piece(size_t bytes) {
    watchdog_beat(NULL);
    return bytes < PIECE_BYTES ? bytes : PIECE_BYTES;
}

bool file_write_at(int fd, const void *data, size_t bytes, int64_t offset, Error *err) {
    const char *from = data;
    while (bytes > 0) {
        ssize_t written = pwrite(fd, from, piece(bytes), offset);
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0)
            return error_set(err, EXIT_IO, "cannot write %zu bytes at offset %lld: %s", bytes,
                             (long long)offset, strerror(written < 0 ? errno : ENOSPC));
        from += written;
        bytes -= (size_t)written;
        offset += written;
    }
    return true;
}

bool file_read_at(int fd, void *data, size_t bytes, int64_t offset, Error *err) {
    char *to = data;
    while (bytes > 0) {
        ssize_t got = pread(fd, to, piece(bytes), offset);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0)
            return error_set(err, EXIT_IO, "cannot read %zu bytes at offset %lld: %s", bytes,
                             (long long)offset, strerror(errno));
        if (got == 0)
            return error_set(err, EXIT_CHECKPOINT, "the file ends at offset %lld, %zu bytes early",
                             (long long)offset, bytes);
        to += got;
        bytes -= (size_t)got;
        offset += got;
    }
    return true;
}

bool file_sync(int fd, Error *err) {
    return fsync(fd) == 0 || error_set(err, EXIT_IO, "fsync failed: %s", strerror(errno));
}

bool directory_make(const char *path, Error *err) {
    char partial[PATH_MAX];
    if (snprintf(partial, sizeof partial, "%s", path) >= (int)sizeof partial)
        return error_set(err, EXIT_IO, "path too long: %.60s...", path);
    for (char *slash = partial + 1; slash;) {
        slash = strchr(slash, '/');
        if (slash) *slash = 0;
        if (mkdir(partial, 0777) != 0 && errno != EEXIST)
            return error_set(err, EXIT_IO, "cannot create the directory %s: %s", partial,
                             strerror(errno));
        if (slash) *slash++ = '/';
    }
    struct stat info;
    if (stat(path, &info) != 0 || !S_ISDIR(info.st_mode))
        return error_set(err, EXIT_IO, "%s exists and is not a directory", path);
    return true;
}

bool directory_sync(const char *path, Error *err) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return error_set(err, EXIT_IO, "cannot open the directory %s: %s", path, strerror(errno));
    bool ok = file_sync(fd, err) || error_prefix(err, "directory %s", path);
    close(fd);
    return ok;
}

bool directory_check_room(const char *path, int64_t bytes, Error *err) {
    struct statvfs info;
    struct rlimit limit;
    if (statvfs(path, &info) != 0 || getrlimit(RLIMIT_FSIZE, &limit) != 0)
        return error_set(err, EXIT_IO, "cannot ask for the free space of %s: %s", path,
                         strerror(errno));
    double wanted = (double)bytes, room = (double)info.f_bavail * (double)info.f_frsize;
    if (wanted > room)
        return error_set(err, EXIT_IO,
                         "%s has %.1f MB free and the checkpoint wants %.1f MB; free some space "
                         "or keep fewer checkpoints",
                         path, room / 1e6, wanted / 1e6);
    if (limit.rlim_cur != RLIM_INFINITY && wanted > (double)limit.rlim_cur)
        return error_set(
            err, EXIT_IO,
            "files are limited to %.1f MB (ulimit -f) and the checkpoint wants %.1f MB",
            (double)limit.rlim_cur / 1e6, wanted / 1e6);
    return true;
}
