// RUN/attempts.jsonl: one row for each start that a supervisor has made: when, on how many ranks,
// how it ended and what followed from that.
#ifndef MOETRAIN_LAUNCHER_SUPERVISOR_ATTEMPT_JOURNAL_H
#define MOETRAIN_LAUNCHER_SUPERVISOR_ATTEMPT_JOURNAL_H

#include <jansson.h>

#include "kernels/check.h"

// Appends a row; takes the reference. A row that cannot be written costs a warning.
void attempt_journal_add(const char *run_dir, json_t *row);
// All rows, oldest first: an array, empty without a journal. To be given back with json_decref.
json_t *attempt_journal_read(const char *run_dir);

#endif
