// The table of configuration keys: one row is all the program knows about a key. Reading YAML,
// overrides, range errors, `moetrain help`, --print-config and the text in checkpoints are all made
// from it.
#ifndef MOETRAIN_LAUNCHER_CONFIG_KEYS_H
#define MOETRAIN_LAUNCHER_CONFIG_KEYS_H

#include <stddef.h>

#include "checkpoint/config_difference.h"
#include "worker/train_config.h"

typedef enum KeyType {
    KEY_INTEGER,  // int64_t
    KEY_NUMBER,   // double
    KEY_RATIONAL, // Rational, written as a decimal or a/b
    KEY_FLAG,     // bool
    KEY_CHOICE,   // an enum: the value of the word in `choices`
    KEY_WORD,     // char[16]: one of `choices`
    KEY_PATH,     // char[CONFIG_PATH_BYTES]: made absolute, except the words of `choices`
    KEY_NAMES,    // char[CONFIG_PATH_BYTES]: names of keys, joined by commas; in YAML also a list
} KeyType;

typedef struct ConfigKey {
    const char *name; // section.key
    KeyType type;
    KeyKind kind;               // what a change means for a run that goes on
    size_t offset;              // in TrainConfig
    const char *initial;        // the default, as text; NULL: must be given, or is derived
    double min, max;            // numbers, both inclusive
    const ChoiceTable *choices; // NULL: no words
    // When left out: what the value then is, in words that name the keys it follows from, and in
    // code. Rows are derived in the order of the table, after all given values are known. run.dir
    // has no function: config.c knows the name of the file.
    const char *derived;
    void (*derive)(TrainConfig *config);
    const char *help;
} ConfigKey;

extern const ConfigKey CONFIG_KEYS[];
enum { CONFIG_KEY_COUNT = 71 };

// The row of a key, or -1.
int config_key_find(const char *name);
// The nearest key's name, or NULL.
const char *config_key_suggest(const char *name);

#endif
