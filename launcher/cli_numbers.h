// Numbers on the command line: the whole word, within bounds. Not collective.
#ifndef MOETRAIN_LAUNCHER_CLI_NUMBERS_H
#define MOETRAIN_LAUNCHER_CLI_NUMBERS_H

#include <stdbool.h>
#include <stdint.h>

// Digits alone, at most 18 of them.
bool whole_number(const char *text, int64_t least, int64_t most, int64_t *value);
// As 1, 0.5 or 1e-3.
bool number(const char *text, double least, double most, double *value);

#endif
