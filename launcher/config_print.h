// A configuration as text, and what `moetrain help` says about its keys. Not collective.
#ifndef MOETRAIN_LAUNCHER_CONFIG_PRINT_H
#define MOETRAIN_LAUNCHER_CONFIG_PRINT_H

#include <stdio.h>

#include "checkpoint/config_difference.h"
#include "launcher/config_origin.h"

// The resolved configuration as YAML, one dotted key a line, to be freed by the caller; config_read
// reads it back to the same TrainConfig. With origins each line ends in a comment that says where
// its value came from.
char *config_to_yaml(const Config *config, bool origins);

// The value of key number `row` as it stands there, to be freed by the caller.
char *config_key_text(const Config *config, int row);

// What a resume needs to know of each key; a rule without a key ends them. To be freed by the
// caller.
KeyRule *config_key_rules(const Config *config);

// `moetrain help`: every key with its default. `moetrain help KEY`: one key, or the keys of a
// section; false with exit 2 for a key that does not exist.
void config_print_keys(FILE *out);
bool config_print_key(FILE *out, const char *name, Error *err);

#endif
