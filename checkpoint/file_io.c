#include "checkpoint/file_io.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "kernels/heartbeat.h"

enum { PIECE_BYTES = 16 << 20 }; // of reading and writing between two signs of life

static size_t piece(size_t bytes) {
    watchdog_beat(NULL);
    return bytes < PIECE_BYTES ? bytes : PIECE_BYTES;
}

// ---- opening ------------------------------------------------------------------------------------

enum { LOOKS_FOR_A_NEW_FILE = 15, LOOK_MILLISECONDS = 200 };

static int opened(int fd, const char *path, Error *err) {
    int cause = errno;
    if (fd < 0)
        error_set(err, EXIT_IO, "%s: cannot open: %s", path,
                  cause == ELOOP ? "it is a symbolic link, which is not followed; move it away"
                                 : strerror(cause));
    errno = cause;
    return fd;
}

static int open_once(const char *path, int flags) {
    if (flags & O_CREAT) flags |= O_EXCL;
    return open(path, flags | O_CLOEXEC | O_NOFOLLOW, 0666);
}

int file_open(const char *path, int flags, Error *err) {
    return opened(open_once(path, flags), path, err);
}

int file_open_or_make(const char *path, int flags, Error *err) {
    flags |= O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;
    return opened(open(path, flags, 0666), path, err);
}

int file_open_to_read(const char *path, Error *err) {
    return opened(open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), path, err);
}

// Opening its folder makes a network file system ask the server what is in it.
static void look_at_folder_of(const char *path) {
    char folder[PATH_MAX];
    const char *slash = strrchr(path, '/');
    snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - path) : 1, slash ? path : ".");
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) close(fd);
}

int file_open_made_elsewhere(const char *path, int flags, Error *err) {
    int fd = open_once(path, flags);
    for (int look = 0; fd < 0 && errno == ENOENT && look < LOOKS_FOR_A_NEW_FILE; look++) {
        nanosleep(&(struct timespec){.tv_nsec = LOOK_MILLISECONDS * 1000000L}, NULL);
        look_at_folder_of(path);
        fd = open_once(path, flags);
    }
    return opened(fd, path, err);
}

// ---- contents -----------------------------------------------------------------------------------

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

bool file_write(int fd, const void *data, size_t bytes, size_t *written, Error *err) {
    size_t done = 0;
    ssize_t some = 1;
    while (done < bytes && some > 0) {
        some = write(fd, (const char *)data + done, bytes - done);
        if (some > 0) done += (size_t)some;
        if (some < 0 && errno == EINTR) some = 1;
    }
    if (written) *written = done;
    return done == bytes ||
           error_set(err, EXIT_IO, "cannot write: %s", strerror(some < 0 ? errno : ENOSPC));
}

int64_t file_read_some(int fd, void *data, size_t bytes, int64_t offset, Error *err) {
    int64_t done = 0;
    for (;;) {
        ssize_t got = pread(fd, (char *)data + done, bytes - (size_t)done, offset + done);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            error_set(err, EXIT_IO, "cannot read at offset %lld: %s", (long long)(offset + done),
                      strerror(errno));
            return -1;
        }
        done += got;
        if (got == 0 || (size_t)done == bytes) return done;
    }
}

bool file_set_length(int fd, int64_t bytes, Error *err) {
    return ftruncate(fd, bytes) == 0 ||
           error_set(err, EXIT_IO, "cannot make it %lld bytes long: %s", (long long)bytes,
                     strerror(errno));
}

bool file_sync(int fd, Error *err) {
    return fsync(fd) == 0 || error_set(err, EXIT_IO, "fsync failed: %s", strerror(errno));
}

void file_start_writing(int fd, int64_t offset, int64_t bytes) {
    (void)sync_file_range(fd, offset, bytes, SYNC_FILE_RANGE_WRITE);
}

void file_start_reading(int fd, int64_t offset, int64_t bytes) {
    // Linux cuts a larger hint down to the largest request of the disk (256 KiB and more).
    const int64_t most = 256 << 10;
    for (int64_t done = 0; done < bytes; done += most)
        (void)posix_fadvise(fd, offset + done, bytes - done < most ? bytes - done : most,
                            POSIX_FADV_WILLNEED);
}

// ---- names --------------------------------------------------------------------------------------

bool file_rename(const char *from, const char *to, Error *err) {
    return rename(from, to) == 0 ||
           error_set(err, EXIT_IO, "cannot rename %s to %s: %s", from, to, strerror(errno));
}

bool file_link(const char *from, const char *to, Error *err) {
    return link(from, to) == 0 ||
           error_set(err, EXIT_IO, "cannot link %s to %s: %s", from, to, strerror(errno));
}

bool file_remove(const char *path, Error *err) {
    return unlink(path) == 0 || errno == ENOENT ||
           error_set(err, EXIT_IO, "cannot remove %s: %s", path, strerror(errno));
}

bool file_make(const char *path, const void *data, size_t bytes, Error *err) {
    Error ignored;
    file_remove(path, &ignored); // file_open follows no link that takes its place
    int fd = file_open(path, O_WRONLY | O_CREAT, err);
    if (fd < 0) return false;
    bool ok = file_write(fd, data, bytes, NULL, err) || error_prefix(err, "%s", path);
    if (close(fd) != 0 && ok)
        ok = error_set(err, EXIT_IO, "%s: cannot write: %s", path, strerror(errno));
    if (!ok) file_remove(path, &ignored);
    return ok;
}

bool file_replace(const char *path, const char *temporary, const void *data, size_t bytes,
                  Error *err) {
    Error ignored;
    if (!file_make(temporary, data, bytes, err)) return false;
    if (file_rename(temporary, path, err)) return true;
    file_remove(temporary, &ignored);
    return false;
}

bool file_replace_shared(const char *path, const void *data, size_t bytes, Error *err) {
    char temporary[PATH_MAX + 288], host[256] = "";
    gethostname(host, sizeof host - 1);
    snprintf(temporary, sizeof temporary, "%s.%s.%ld.tmp", path, host, (long)getpid());
    return file_replace(path, temporary, data, bytes, err);
}

// ---- folders ------------------------------------------------------------------------------------

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

bool directory_make_new(const char *path, Error *err) {
    return mkdir(path, 0777) == 0 ||
           error_set(err, EXIT_IO, "cannot create the directory %s: %s", path, strerror(errno));
}

bool directory_remove(const char *path, Error *err) {
    return rmdir(path) == 0 ||
           error_set(err, EXIT_IO, "cannot remove the directory %s: %s", path, strerror(errno));
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
    if (statvfs(path, &info) != 0)
        return error_set(err, EXIT_IO, "cannot ask for the free space of %s: %s", path,
                         strerror(errno));
    double wanted = (double)bytes, room = (double)info.f_bavail * (double)info.f_frsize;
    return wanted <= room ||
           error_set(err, EXIT_IO,
                     "%s has %.1f MB free and %.1f MB are to be written; free some space or keep "
                     "fewer checkpoints",
                     path, room / 1e6, wanted / 1e6);
}

bool file_check_place(const char *path, Error *err) {
    char folder[PATH_MAX];
    const char *slash = strrchr(path, '/');
    int length = !slash ? 1 : slash == path ? 1 : (int)(slash - path);
    snprintf(folder, sizeof folder, "%.*s", length, slash ? path : ".");
    if (access(folder, W_OK | X_OK) == 0) return true;
    return error_set(err, EXIT_IO, "%s: cannot be made in %s: %s; %s", path, folder,
                     strerror(errno),
                     errno == ENOENT ? "make that folder or name another one"
                                     : "choose a folder that can be written");
}

bool file_check_limit(int64_t bytes, Error *err) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_FSIZE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return true;
    return (double)bytes <= (double)limit.rlim_cur ||
           error_set(err, EXIT_IO,
                     "files are limited to %.1f MB (ulimit -f) and %.1f MB are to be written",
                     (double)limit.rlim_cur / 1e6, (double)bytes / 1e6);
}
