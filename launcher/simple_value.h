// One configuration value that is no list of maps: text to its field.
//
// Strict on purpose: 3.5, 1e3, 0x10, 010 and " 3" are not whole numbers, a number must be finite
// and used up to its last character, a flag is true or false and nothing else.
#ifndef MOETRAIN_LAUNCHER_SIMPLE_VALUE_H
#define MOETRAIN_LAUNCHER_SIMPLE_VALUE_H

#include "kernels/option.h"

// As config_value_parse.
bool simple_value_parse(const Option *key, const char *text, const char *base_folder, void *field,
                        Error *err);
// The same for the items of a list that are apart already. *wrong is then the item that is refused,
// or -1 where it is the list.
bool simple_items_parse(const Option *key, const char *const *items, int count, void *field,
                        int *wrong, Error *err);
bool option_takes_list(const Option *key); // also one of maps

#endif
