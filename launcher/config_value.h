// One configuration value: text to its field and back.
#ifndef MOETRAIN_LAUNCHER_CONFIG_VALUE_H
#define MOETRAIN_LAUNCHER_CONFIG_VALUE_H

#include <stdio.h>

#include "kernels/option.h"

// Reads text, as a command line has it, into the key's field. Relative paths start at base_folder.
// False with exit 2, value and what is legal.
bool config_value_parse(const Option *key, const char *text, const char *base_folder, void *field,
                        Error *err);
// Writes the value as YAML that reads back to the same value.
void config_value_print(FILE *out, const Option *key, const void *field);

#endif
