// Small files of one JSON object that others read while they are written: whole or not there.
// Nothing here waits for the disk, and nothing is written through a symbolic link.
#ifndef MOETRAIN_WORKER_RUN_JSON_FILE_H
#define MOETRAIN_WORKER_RUN_JSON_FILE_H

#include <jansson.h>
#include <stdbool.h>

#include "kernels/check.h"

// Puts `object` into the place of the file at `path`. Takes the reference to it, also when it is
// NULL, as after a failed json_pack. False when it cannot be written; the old file then stays.
bool json_file_replace(const char *path, json_t *object);
// The same, unless there is a file already: true when this is now the file. Of several processes
// one wins.
bool json_file_create(const char *path, json_t *object);
// What the file holds, to be given back with json_decref; NULL when there is none, or when it is no
// JSON object of at most 16 MiB.
json_t *json_file_read(const char *path);
// The same where what is wrong is to be said: an object of at most `most` bytes in which no key is
// twice. NULL with `damaged` and the line, or with exit 5 where it cannot be read. Messages do not
// name the file.
json_t *json_file_load(const char *path, int64_t most, ExitCode damaged, Error *err);

// The rows of a file of JSON lines, an array to be given back with json_decref; what is no JSON, as
// a torn last line, is none. Empty when there is no such file.
json_t *json_file_rows(const char *path);

// A string for json_pack's "o" from bytes that may be no UTF-8.
json_t *json_text(const char *bytes);

#endif
