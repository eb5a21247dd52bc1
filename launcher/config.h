// The configuration of a run: defaults, then a YAML file, then key=value from the command line,
// then derived values, then the rules.
#ifndef MOETRAIN_LAUNCHER_CONFIG_H
#define MOETRAIN_LAUNCHER_CONFIG_H

#include "launcher/config_origin.h"

// Reads a whole configuration file into memory, to be freed by the caller. False with exit 2. Not
// collective.
bool config_load_text(const char *path, char **text, size_t *bytes, Error *err);

// Fills the configuration and checks every rule that does not need the number of ranks. Relative
// paths in the text start at source's folder, those in overrides at the current one. False with
// exit 2 and source:line:column or "command line", key, value, what is legal. Not collective.
bool config_read(Config *config, const char *source, const char *text, size_t bytes,
                 const char *const *overrides, int override_count, Error *err);

// Changes of what the file says, in their order.
typedef struct ConfigOverrides {
    const char *const *words; // key=value
    int count;
    // Where they stand: the lines of another file, and its folder, where relative paths start.
    // NULL: on the command line.
    const int *lines;
    const char *folder;
} ConfigOverrides;
// The same with several sets of changes; messages name "line N" or "command line".
bool config_read_changed(Config *config, const char *source, const char *text, size_t bytes,
                         const ConfigOverrides *sets, int set_count, Error *err);

#endif
