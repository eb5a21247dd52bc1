// The system calls of everything the program keeps on a disk: checkpoints, rows, the small files of
// a run, its lock, its folders; and of what it reads there. One place, so that what a full disk, a
// signal or a link does to a file is decided once, and can be tried call by call (tests/faults).
//
// Each has a message that says what failed and why; where a path is no argument the caller adds it.
// Every failure is EXIT_IO, except a file that ends early: EXIT_CHECKPOINT. What writes follows no
// symbolic link in the last part of a path. Functions with a path leave errno as the call has set
// it. Nothing here is collective.
#ifndef MOETRAIN_CHECKPOINT_FILE_IO_H
#define MOETRAIN_CHECKPOINT_FILE_IO_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/check.h"

// ---- opening, descriptors or -1 -----------------------------------------------------------------

// flags as of open(2); O_CREAT makes a file that must not exist.
int file_open(const char *path, int flags, Error *err);
// Makes it if need be.
int file_open_or_make(const char *path, int flags, Error *err);
// The same as file_open for a file that another rank has just made: for some seconds a network file
// system may still say that it is not there.
int file_open_made_elsewhere(const char *path, int flags, Error *err);
// For reading; follows links, and does not wait for a writer where the path is a pipe.
int file_open_to_read(const char *path, Error *err);

// ---- contents -----------------------------------------------------------------------------------

// All bytes or an error; short transfers and signals are continued. They are signs of life
// (heartbeat.h) of the main thread, or of one that works behind it.
bool file_write_at(int fd, const void *data, size_t bytes, int64_t offset, Error *err);
bool file_read_at(int fd, void *data, size_t bytes, int64_t offset, Error *err);

// The same, where the descriptor stands, for small files and from any thread. *written: bytes that
// are in the file, also after an error; may be NULL.
bool file_write(int fd, const void *data, size_t bytes, size_t *written, Error *err);
// What there is, up to `bytes`; fewer at the end of the file, or -1. From any thread.
int64_t file_read_some(int fd, void *data, size_t bytes, int64_t offset, Error *err);

bool file_set_length(int fd, int64_t bytes, Error *err);

// Waits until the bytes are on the disk. A failure is final for this file: the system may have
// dropped the pages it could not write, so that a second fsync would report success.
bool file_sync(int fd, Error *err);
// The disk begins with what was written, so that file_sync finds little left to wait for. Only a
// hint: what goes wrong on the disk comes back from file_sync.
void file_start_writing(int fd, int64_t offset, int64_t bytes);

// The system begins to read into its cache what file_read_at will ask for. Only a hint.
void file_start_reading(int fd, int64_t offset, int64_t bytes);

// ---- names --------------------------------------------------------------------------------------

bool file_rename(const char *from, const char *to, Error *err);
// A second name for a file, which must not exist.
bool file_link(const char *from, const char *to, Error *err);
bool file_remove(const char *path, Error *err); // true also when there is none
// A new file of these bytes at a path that belongs to the caller: what a crash left there goes.
bool file_make(const char *path, const void *data, size_t bytes, Error *err);
// The whole contents of the file at `path`, by way of a new one beside it, `temporary`: readers see
// the old or the new. Neither waits for the disk.
bool file_replace(const char *path, const char *temporary, const void *data, size_t bytes,
                  Error *err);

// The same where several processes may write it at once, as the tasks of an array: the new file's
// name has this host and process.
bool file_replace_shared(const char *path, const void *data, size_t bytes, Error *err);

// ---- folders ------------------------------------------------------------------------------------

bool directory_make(const char *path, Error *err);     // with its parents; an existing one is fine
bool directory_make_new(const char *path, Error *err); // which must not exist; its parent must
bool directory_remove(const char *path, Error *err);   // an empty one
bool directory_sync(const char *path, Error *err); // makes renames and removals inside it durable
// False when the file system of `path` has less than `bytes` left.
bool directory_check_room(const char *path, int64_t bytes, Error *err);
// False when nothing can be made at `path` because of its folder: to be asked before long work.
bool file_check_place(const char *path, Error *err);
// False when the process may not write a file of `bytes`.
bool file_check_limit(int64_t bytes, Error *err);

#endif
