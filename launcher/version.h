// What this program is made of, for --version and bug reports.
#ifndef MOETRAIN_LAUNCHER_VERSION_H
#define MOETRAIN_LAUNCHER_VERSION_H

#include <stdio.h>

#include "kernels/check.h"

// Program, libraries as loaded, compiler, and the device that `auto` would take. False when no
// device opens. Not collective; MPI need not be initialised.
bool version_print(FILE *out, Error *err);

#endif
