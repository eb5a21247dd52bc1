// A configuration, and where each of its values came from.
//
// A Config holds no pointers: rank 0 reads one and broadcasts its bytes.
#ifndef MOETRAIN_LAUNCHER_CONFIG_ORIGIN_H
#define MOETRAIN_LAUNCHER_CONFIG_ORIGIN_H

#include "launcher/config_keys.h"

typedef enum OriginKind {
    ORIGIN_DEFAULT,
    ORIGIN_DERIVED,
    ORIGIN_COMPAT, // the default of the system that compat names
    ORIGIN_FILE,
    ORIGIN_COMMAND_LINE,
    ORIGIN_OTHER_FILE // which changes what the first says
} OriginKind;

typedef struct ConfigOrigin {
    OriginKind kind;
    int line, column; // of ORIGIN_FILE; of ORIGIN_OTHER_FILE the line
} ConfigOrigin;

typedef struct Config {
    TrainConfig train;
    char source[CONFIG_PATH_BYTES]; // the file's name, as messages show it
    ConfigOrigin origins[];         // of each key
} Config;

size_t config_bytes(void);                 // of a Config
Config *config_new(void);                  // zeroed; to be freed by the caller
Config *config_copy(const Config *config); // to be freed by the caller

// Whether the user gave the key, in the file or on the command line.
bool config_is_given(const Config *config, const char *key);
// Where the value of a key was given: "tiny.yaml:7:3", "command line", "line 7" of another file,
// "default", "derived".
void config_place(const Config *config, const char *key, char *place, size_t bytes);

#endif
