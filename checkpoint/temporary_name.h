// The name beside its own under which a file or folder is made that gets its own once it is whole:
// PATH.HOST.PID.tmp, so that two processes that make PATH at once do not write into each other's.
// Not collective.
#ifndef MOETRAIN_CHECKPOINT_TEMPORARY_NAME_H
#define MOETRAIN_CHECKPOINT_TEMPORARY_NAME_H

#include <stddef.h>

#include "kernels/check.h"

enum { TEMPORARY_NAME_BYTES = 288 }; // room behind a path

// False with exit 5 when there is something at `path`, or a process of this host is making it.
// Removes what those of this host have left that live no more.
bool temporary_name_take(char *temporary, size_t bytes, const char *path, Error *err);
// Gives it its own name, which nothing may have by now.
bool temporary_name_publish(const char *temporary, const char *path, Error *err);
// Removes a file, or a folder of files and nothing else; true also when there is none.
bool temporary_name_remove(const char *temporary, Error *err);

#endif
