// A key of the configuration: one row is all that the program knows about it. Reading YAML,
// overrides, range errors, `moetrain help`, --print-config and the text in checkpoints are all made
// from rows.
//
// A section is the rows of one struct and the rules that join them; it stands beside what it
// configures (…_options.c in model/ and worker/), written with the macros of option_rows.h.
// launcher/config_keys.c has the list of sections. Not collective.
#ifndef MOETRAIN_KERNELS_OPTION_H
#define MOETRAIN_KERNELS_OPTION_H

#include <stdint.h>

#include "kernels/check.h"
#include "kernels/choice.h"

// An exact rational, so that ⌈1.1 · 1600 · 2 / 4⌉ is 880 and not 881.
typedef struct Rational {
    int64_t numerator, denominator; // denominator > 0
} Rational;

// What a change means for a run that goes on from a checkpoint.
typedef enum KeyKind {
    KIND_NONE,     // of no key: what a forgotten one would have
    KIND_FREE,     // changes no result: where and how, not what
    KIND_COURSE,   // changes where training goes from here on
    KIND_FUNCTION, // changes what the stored weights compute
    // changes what else is stored means, or what the run is; the weights alone do not care
    KIND_STATE,
} KeyKind;

typedef enum OptionType {
    OPTION_INTEGER,  // int64_t
    OPTION_NUMBER,   // double
    OPTION_RATIONAL, // Rational, written as a decimal or a/b
    OPTION_FLAG,     // bool
    OPTION_CHOICE,   // an enum: the value of the word in `choices`
    OPTION_WORD,     // char[CONFIG_WORD_BYTES]: one of `choices`
    OPTION_PATH,     // char[CONFIG_PATH_BYTES]: made absolute, except the words of `choices`
    // char[CONFIG_PATH_BYTES]: names of keys, joined by commas; in YAML also a list
    OPTION_NAMES,
    OPTION_INTEGERS, // PerLayer (model_config.h): a whole number, or a list of them
    OPTION_CHOICES,  // PerLayer: the value of a word in `choices`, or of a list of them
    OPTION_PATTERN,  // char[CONFIG_PATTERN_BYTES]: names with * and ?, as the shell has them
    OPTION_LABEL,    // char[CONFIG_LABEL_BYTES]: a name that the user chooses, or a file has
    OPTION_MAPS,     // a list of maps, whose fields are `map`: [{scope: shard, factor: 0.01}]
} OptionType;

enum {
    CONFIG_PATH_BYTES = 1024,
    CONFIG_WORD_BYTES = 16,
    CONFIG_PATTERN_BYTES = 64,
    CONFIG_LABEL_BYTES = 64,
};

typedef struct OptionMap OptionMap;

typedef struct Option {
    const char *name; // section.key
    OptionType type;
    KeyKind kind;
    size_t offset;              // in the section's struct
    const char *initial;        // the default, as text; NULL: must be given, or is derived
    double min, max;            // numbers, both inclusive
    const ChoiceTable *choices; // NULL: no words
    const OptionMap *map;       // of OPTION_MAPS
    // When left out: what the value then is, in words that name the keys it follows from, and in
    // code that gets the section's struct. Keys are derived in the order of sections and rows,
    // after all given values are known, whatever they were before. run.dir has no function: the
    // reader knows the file's name.
    const char *derived;
    void (*derive)(void *section);
    const char *help;
} Option;

// What the maps of a list have in common. The list lies in its struct as
//   struct { int64_t count; MAP maps[most]; }
// where MAP is a struct of 8-byte alignment. A field is a row without section and kind, whose
// offset is in MAP; one that a map leaves out has its default, or must be given where it has none.
struct OptionMap {
    const Option *fields; // of any type of one value
    int count;
    size_t bytes; // of MAP
    int most;     // maps of a list
    // The field that a value is which is no list, of a map whose other fields have their defaults;
    // an empty one, where the key has such a default, is a list of no maps. NULL: a list is needed.
    const char *plain;
};

// ---- rules --------------------------------------------------------------------------------------

// What the rules of a section know of the reading, and where they leave their error.
typedef struct OptionRules OptionRules;
struct OptionRules {
    const void *reading; // the reader's own
    // Whether the user gave the key, in the file or on the command line.
    bool (*is_given)(const OptionRules *rules, const char *key);
    // The place where the key was given, "tiny.yaml:7:3"; of NULL the file's name.
    void (*place)(const OptionRules *rules, const char *key, char *place, size_t bytes);
    Error *err;
};

// The error of a rule that joins `key` and `other` (may be NULL): exit 2; it begins with the place
// where the user gave one of them, or else with the file. Returns false.
bool option_broken(const OptionRules *rules, const char *key, const char *other, const char *format,
                   ...) __attribute__((format(printf, 4, 5)));

typedef struct OptionSection {
    const Option *rows;
    int count;
    // Rules that join keys, once all values are known; they may look at sections before. False with
    // *rules->err. NULL: none.
    bool (*check)(const void *section, const OptionRules *rules);
} OptionSection;

// Values that would do, for messages: "1, 2, 4, 8": the divisors of n that also divide m (m = 0:
// any), up to 12 of them.
void option_list_divisors(int64_t n, int64_t m, char list[160]);
// "2, 4, 8": n times the powers of two up to `most`.
void option_list_multiples(int64_t n, int64_t most, char list[160]);

#endif
