// The few system calls of a checkpoint, each with a message that says what failed and why.
// Callers add the path. Every failure is EXIT_IO, except a file that ends early: EXIT_CHECKPOINT.
// Nothing here follows a symbolic link in the last part of a path. Nothing here is collective.
#ifndef MOETRAIN_CHECKPOINT_FILE_IO_H
#define MOETRAIN_CHECKPOINT_FILE_IO_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/check.h"

// For tests: asked before each of these system calls; unless it returns 0, the call fails with that
// errno. NULL in the program.
extern int (*file_io_fault)(const char *call);

// A descriptor, or -1. flags as of open(2); O_CREAT makes a file that must not exist.
int file_open(const char *path, int flags, Error *err);
// The same for a file that another rank has just made: for some seconds a network file system may
// still say that it is not there.
int file_open_made_elsewhere(const char *path, int flags, Error *err);
bool file_set_length(int fd, int64_t bytes, Error *err);
bool file_rename(const char *from, const char *to, Error *err);

// All bytes or an error; short transfers and signals are continued.
bool file_write_at(int fd, const void *data, size_t bytes, int64_t offset, Error *err);
bool file_read_at(int fd, void *data, size_t bytes, int64_t offset, Error *err);

// Waits until the bytes are on the disk. A failure is final for this file: the system may have
// dropped the pages it could not write, so that a second fsync would report success.
bool file_sync(int fd, Error *err);
// The disk begins with what was written, so that file_sync finds little left to wait for. Only a
// hint: what goes wrong on the disk comes back from file_sync.
void file_start_writing(int fd, int64_t offset, int64_t bytes);

bool directory_make(const char *path, Error *err); // with its parents; an existing one is fine
bool directory_sync(const char *path, Error *err); // makes renames and removals inside it durable
// False when the file system of `path` has less than `bytes` left.
bool directory_check_room(const char *path, int64_t bytes, Error *err);
// False when the process may not write a file of `bytes`.
bool file_check_limit(int64_t bytes, Error *err);

#endif
