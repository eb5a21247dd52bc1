// Paths as values of the configuration. Not collective.
#ifndef MOETRAIN_LAUNCHER_CONFIG_PATH_H
#define MOETRAIN_LAUNCHER_CONFIG_PATH_H

#include "kernels/option.h"

// Whether the text is UTF-8 that YAML can hold on one line: no control characters, no line
// separators.
bool path_is_printable(const char *text);

// base_folder/path without leading ./ and ../ ; an absolute path as it is. False with exit 2 when
// too long.
bool path_resolve(const char *base_folder, const char *path, char resolved[CONFIG_PATH_BYTES],
                  Error *err);

#endif
