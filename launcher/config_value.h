// One configuration value: text to its field and back.
//
// Strict on purpose: 3.5, 1e3, 0x10, 010 and " 3" are not whole numbers, a number must be finite
// and used up to its last character, a flag is true or false and nothing else.
#ifndef MOETRAIN_LAUNCHER_CONFIG_VALUE_H
#define MOETRAIN_LAUNCHER_CONFIG_VALUE_H

#include "kernels/option.h"

enum { CONFIG_VALUE_BYTES = CONFIG_PATH_BYTES };

// Reads text into the key's field. Relative paths start at base_folder. False with exit 2, value
// and what is legal.
bool config_value_parse(const Option *key, const char *text, const char *base_folder, void *field,
                        Error *err);
// The value as text that config_value_parse reads back to the same value.
void config_value_format(const Option *key, const void *field, char text[CONFIG_VALUE_BYTES]);
// What may be written: "a whole number from 1 to 64", "one of ranks, run, off", ….
void config_value_legal(const Option *key, char text[256]);

// base_folder/path without leading ./ and ../ ; an absolute path as it is. False with exit 2 when
// too long.
bool path_resolve(const char *base_folder, const char *path, char resolved[CONFIG_PATH_BYTES],
                  Error *err);

#endif
