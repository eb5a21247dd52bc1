// What a user gives to go on from: a file, or lines of standard input while the program runs.
#ifndef MOETRAIN_WORKER_GENERATION_INPUT_H
#define MOETRAIN_WORKER_GENERATION_INPUT_H

#include <stdbool.h>
#include <stddef.h>

#include "kernels/check.h"

// Standard input as far as it has been read.
typedef struct InputLines {
    char *bytes;
    size_t count, room;
    size_t taken; // bytes of the line that was given last
    bool ended;
} InputLines;

// All of a regular file as it is, or of standard input for "-": NUL-terminated, to be freed. False
// with exit 3 for a file that is empty, cannot be read, or holds a NUL, and with exit 75 after a
// request to stop. Not collective.
bool input_read_all(const char *path, char **text, Error *err);

// The next line of standard input without its end: borrowed until the next call; NULL at the end.
// A request to stop is an end with exit 75, which *err then says. Not collective.
const char *input_next_line(InputLines *lines, Error *err);
void input_lines_free(InputLines *lines); // legal on a zeroed one

#endif
