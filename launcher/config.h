// The configuration of a run: defaults, then a YAML file, then key=value from the command line,
// then derived values.
//
// config_keys.c has the table of keys, config_rules.c the rules that join several keys. A Config
// holds no pointers: rank 0 reads one and broadcasts its bytes.
#ifndef MOETRAIN_LAUNCHER_CONFIG_H
#define MOETRAIN_LAUNCHER_CONFIG_H

#include <stdio.h>

#include "launcher/config_keys.h"

typedef enum OriginKind {
    ORIGIN_DEFAULT,
    ORIGIN_DERIVED,
    ORIGIN_FILE,
    ORIGIN_COMMAND_LINE
} OriginKind;

typedef struct ConfigOrigin {
    OriginKind kind;
    int line, column; // of ORIGIN_FILE
} ConfigOrigin;

typedef struct Config {
    TrainConfig train;
    char source[CONFIG_PATH_BYTES]; // the file's name, as messages show it
    ConfigOrigin origins[CONFIG_KEY_COUNT];
} Config;

// Reads a whole configuration file into memory, to be freed by the caller. False with exit 2. Not
// collective.
bool config_load_text(const char *path, char **text, size_t *bytes, Error *err);

// Fills the configuration and checks every rule that does not need the number of ranks. Relative
// paths in the text start at source's folder, those in overrides at the current one. False with
// exit 2 and source:line:column or "command line", key, value, what is legal. Not collective.
bool config_read(Config *config, const char *source, const char *text, size_t bytes,
                 const char *const *overrides, int override_count, Error *err);

// The resolved configuration as YAML, one dotted key a line, to be freed by the caller; config_read
// reads it back to the same TrainConfig. With origins each line ends in a comment that says where
// its value came from.
char *config_to_yaml(const Config *config, bool origins);

// What a resume needs to know of each key; a rule without a key ends them.
void config_key_rules(const Config *config, KeyRule rules[CONFIG_KEY_COUNT + 1]);

// Where the value of a key was given: "tiny.yaml:7:3", "command line", "default", "derived".
void config_place(const Config *config, const char *key, char place[CONFIG_PATH_BYTES + 32]);

// `moetrain help`: every key with its default. `moetrain help KEY`: one key, or the keys of a
// section; false with exit 2 for a key that does not exist.
void config_print_keys(FILE *out);
bool config_print_key(FILE *out, const char *name, Error *err);

#endif
