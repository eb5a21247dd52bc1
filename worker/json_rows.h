// A file of JSON lines that a user gives with a command: questions, prompts.
#ifndef MOETRAIN_WORKER_JSON_ROWS_H
#define MOETRAIN_WORKER_JSON_ROWS_H

#include <jansson.h>
#include <stdint.h>

#include "kernels/check.h"

typedef struct JsonRows {
    json_t **rows;  // objects
    int64_t *lines; // of the file, from 1
    int64_t count;
} JsonRows;

// Reads a whole file, blank lines left out; rank 0 does, the others get its bytes. False with exit
// 3 and the line, the same on every rank, also where it holds none. Needs json_rows_free.
// Collective over all ranks.
bool json_rows_read(JsonRows *rows, const char *path, Error *err);
void json_rows_free(JsonRows *rows); // legal on a zeroed one

#endif
