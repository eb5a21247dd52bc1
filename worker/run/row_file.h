// A file of JSON objects, one a line, that is appended to while a disk may be full and people may
// remove or move it. It holds whole lines only: a row is written at once or cut back. Nothing is
// ever written through a symbolic link.
#ifndef MOETRAIN_WORKER_RUN_ROW_FILE_H
#define MOETRAIN_WORKER_RUN_ROW_FILE_H

#include <stdint.h>

#include "kernels/check.h"

typedef struct RowFile RowFile;

// Opens `path` for appending and makes it if need be. Rows whose "step" is later than last_step are
// taken out, and so is what is no JSON object: a torn last line, or lines that another program
// left. False with exit 5. Not collective.
bool row_file_open(RowFile **rows, const char *path, int64_t last_step, Error *err);
void row_file_close(RowFile *rows); // legal on NULL

// Appends one row, newline included. A failure costs the row and a warning, once until it works
// again, never the run; a file that was removed or replaced is begun anew, with a warning. Not
// collective.
void row_file_append(RowFile *rows, const char *row);

#endif
