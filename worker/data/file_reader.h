// A data file as bytes: opened once, read at offsets with pread, every failure in words (exit 3).
// Never mapped: a file that shrinks under us is an error message, not a SIGBUS. Not collective.
#ifndef MOETRAIN_WORKER_DATA_FILE_READER_H
#define MOETRAIN_WORKER_DATA_FILE_READER_H

#include "worker/train_config.h"

typedef struct FileReader {
    int fd; // -1: closed
    int64_t bytes;
    int64_t *taken; // of a stream: how many bytes it has given, `bytes` being unknown; NULL: a file
    char path[CONFIG_PATH_BYTES];
} FileReader;

// Opens a regular file that is not empty and takes its size.
bool file_reader_open(FileReader *file, const char *path, Error *err);
void file_reader_close(FileReader *file); // legal on a closed one

// Standard input, which only file_reader_read_some reads, from the beginning on. *taken becomes 0.
void file_reader_open_input(FileReader *file, int64_t *taken);

// Reads exactly `bytes` at `offset`. Thread-safe.
bool file_reader_read(const FileReader *file, int64_t offset, size_t bytes, void *buffer,
                      Error *err);
// Reads up to `bytes`, fewer only at the end. Returns how many, -1 with exit 3, also for a stream
// without any, or of compressed ones.
int64_t file_reader_read_some(const FileReader *file, int64_t offset, size_t bytes, void *buffer,
                              Error *err);

#endif
