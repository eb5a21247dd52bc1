#include "worker/file_reader.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernels/heartbeat.h"

// What a path that does not exist was probably meant to be.
static const char *advise(const char *path, int cause) {
    if (cause == ENOENT && strstr(path, ":/"))
        return "files are read from this machine: download it first";
    if (cause == ENOENT && strpbrk(path, "*?,["))
        return "one file is read, without patterns and lists: put several together with cat";
    if (cause == ENOENT && strchr(path, '$'))
        return "variables are not replaced here: write the whole path";
    return "check the path and its permissions";
}

bool file_reader_open(FileReader *file, const char *path, Error *err) {
    *file = (FileReader){.fd = -1};
    snprintf(file->path, sizeof file->path, "%s", path);
    struct stat status;
    // O_NONBLOCK: opening a named pipe must not wait for a writer; regular files do not heed it.
    file->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file->fd < 0 || fstat(file->fd, &status) != 0) {
        error_set(err, EXIT_DATA, "%s: cannot be opened: %s; %s", path, strerror(errno),
                  advise(path, errno));
    } else if (!S_ISREG(status.st_mode)) {
        error_set(err, EXIT_DATA, "%s: is a %s", path,
                  S_ISDIR(status.st_mode) ? "directory; name one file in it"
                                          : "device or pipe; name a regular file");
    } else if (status.st_size == 0) {
        error_set(err, EXIT_DATA, "%s: is empty; prepare the data again", path);
    } else {
        file->bytes = status.st_size;
        return true;
    }
    file_reader_close(file);
    return false;
}

void file_reader_close(FileReader *file) {
    if (file->fd >= 0) close(file->fd);
    file->fd = -1;
}

bool file_reader_read(const FileReader *file, int64_t offset, size_t bytes, void *buffer,
                      Error *err) {
    enum { PIECE_BYTES = 16 << 20 }; // between two signs of life
    for (size_t done = 0; done < bytes;) {
        size_t piece = bytes - done < PIECE_BYTES ? bytes - done : PIECE_BYTES;
        watchdog_beat(NULL);
        ssize_t got = pread(file->fd, (char *)buffer + done, piece, offset + (int64_t)done);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0)
            return error_set(err, EXIT_DATA, "%s: reading at byte %lld failed: %s", file->path,
                             (long long)(offset + (int64_t)done), strerror(errno));
        if (got == 0) { // the file's present end, which may lie before what was asked for
            struct stat status;
            int64_t end = fstat(file->fd, &status) == 0 ? status.st_size : offset + (int64_t)done;
            return error_set(err, EXIT_DATA,
                             "%s: ends at byte %lld but had %lld when it was opened; do not change "
                             "data files while they are in use",
                             file->path, (long long)end, (long long)file->bytes);
        }
        done += (size_t)got;
    }
    return true;
}
