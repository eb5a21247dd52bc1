#include "worker/data/file_reader.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpoint/file_io.h"
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
    file->fd = file_open_to_read(path, err);
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

void file_reader_open_input(FileReader *file, int64_t *taken) {
    *taken = 0;
    *file = (FileReader){.fd = -1, .bytes = INT64_MAX, .taken = taken, .path = "standard input"};
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
        int64_t got =
            file_read_some(file->fd, (char *)buffer + done, piece, offset + (int64_t)done, err);
        if (got < 0) {
            err->exit_code = EXIT_DATA;
            return error_prefix(err, "%s", file->path);
        }
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

// With gzip or zstd.
static bool is_compressed(const uint8_t *bytes, size_t count) {
    return count >= 4 &&
           (memcmp(bytes, "\x1F\x8B\x08", 3) == 0 || memcmp(bytes, "\x28\xB5\x2F\xFD", 4) == 0);
}

int64_t file_reader_read_some(const FileReader *file, int64_t offset, size_t bytes, void *buffer,
                              Error *err) {
    if (!file->taken) {
        int64_t rest = file->bytes - offset;
        if (rest < (int64_t)bytes) bytes = (size_t)rest;
        return file_reader_read(file, offset, bytes, buffer, err) ? (int64_t)bytes : -1;
    }
    CHECK(offset == *file->taken, "byte %lld of a stream at byte %lld", (long long)offset,
          (long long)*file->taken);
    size_t got = fread(buffer, 1, bytes, stdin);
    *file->taken += (int64_t)got;
    if (ferror(stdin))
        error_set(err, EXIT_DATA, "%s: cannot be read at byte %lld: %s", file->path,
                  (long long)*file->taken, strerror(errno));
    else if (*file->taken == 0 && bytes > 0)
        error_set(err, EXIT_DATA, "%s: is empty; give it a text", file->path);
    else if (offset == 0 && is_compressed(buffer, got))
        error_set(err, EXIT_DATA, "%s: is compressed; unpack it first: zcat or zstdcat FILE | …",
                  file->path);
    else
        return (int64_t)got;
    return -1;
}
