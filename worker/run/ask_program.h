// A question to another program, for what only it knows: the batch system's commands.
#ifndef MOETRAIN_WORKER_RUN_ASK_PROGRAM_H
#define MOETRAIN_WORKER_RUN_ASK_PROGRAM_H

#include <stdbool.h>
#include <stddef.h>

// Runs words[0], found in PATH, with the NULL-ended words, and takes the first line that it writes
// to its standard output; its errors are not shown. False when there is no such program, when it
// fails, writes nothing, or takes longer than `seconds`: then it is killed. Not collective.
bool ask_program(const char *const words[], double seconds, char *answer, size_t room);

#endif
