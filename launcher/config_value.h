// One configuration value: text to its field and back.
//
// Strict on purpose: 3.5, 1e3, 0x10, 010 and " 3" are not whole numbers, a number must be finite
// and used up to its last character, a flag is true or false and nothing else.
#ifndef MOETRAIN_LAUNCHER_CONFIG_VALUE_H
#define MOETRAIN_LAUNCHER_CONFIG_VALUE_H

#include <stdio.h>

#include "kernels/option.h"

enum { CONFIG_LEGAL_BYTES = 384 };

// Reads text into the key's field. Relative paths start at base_folder. False with exit 2, value
// and what is legal.
bool config_value_parse(const Option *key, const char *text, const char *base_folder, void *field,
                        Error *err);
// The same for the items of a list that are apart already. *wrong is then the item that is refused,
// or -1 where it is the list.
bool config_items_parse(const Option *key, const char *const *items, int count, void *field,
                        int *wrong, Error *err);
bool option_takes_list(const Option *key);

// Writes the value as YAML that reads back to the same value.
void config_value_print(FILE *out, const Option *key, const void *field);
// What may be written: "a whole number from 1 to 64", "one of ranks, run, off", ….
void config_value_legal(const Option *key, char text[CONFIG_LEGAL_BYTES]);

#endif
