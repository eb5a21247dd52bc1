// The few system calls of a checkpoint, each with a message that says what failed and why.
// Callers add the path. Every failure is EXIT_IO, except a file that ends early: EXIT_CHECKPOINT.
// Nothing here is collective.
#ifndef MOETRAIN_CHECKPOINT_FILE_IO_H
#define MOETRAIN_CHECKPOINT_FILE_IO_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/check.h"

// All bytes or an error; short transfers and signals are continued.
bool file_write_at(int fd, const void *data, size_t bytes, int64_t offset, Error *err);
bool file_read_at(int fd, void *data, size_t bytes, int64_t offset, Error *err);

// Waits until the bytes are on the disk. A failure is final for this file: the system may have
// dropped the pages it could not write, so that a second fsync would report success.
bool file_sync(int fd, Error *err);

bool directory_make(const char *path, Error *err); // with its parents; an existing one is fine
bool directory_sync(const char *path, Error *err); // makes renames and removals inside it durable
// False when the file system of `path` or the process's limit on file sizes leaves less than
// `bytes`.
bool directory_check_room(const char *path, int64_t bytes, Error *err);

#endif
