// Going on without a terminal: `supervise --daemon`.
#ifndef MOETRAIN_LAUNCHER_SUPERVISOR_DETACH_H
#define MOETRAIN_LAUNCHER_SUPERVISOR_DETACH_H

#include "kernels/check.h"

// From here on a new process runs, in a session of its own. The old one waits for detach_ready or
// the new one's end, says which process to look for, and ends with its exit code.
void detach(void);
// Tells the old process that all is well, and writes to the file at log_path from now on, behind
// what is in it. False with exit 5 when it cannot be opened. Does nothing without detach.
bool detach_ready(const char *log_path, Error *err);

#endif
