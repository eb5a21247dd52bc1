// The command line: a verb, what it works on, and the verb's options. Nothing here knows a verb;
// launcher/verbs.c lists them, and each stands in a file of its own with its words, its options and
// what it does.
#ifndef MOETRAIN_LAUNCHER_CLI_H
#define MOETRAIN_LAUNCHER_CLI_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "kernels/check.h"

enum { MOST_OVERRIDES = 256, MOST_WORDS = 1024 };
#define MOST_DIGITS 1e18 // numbers of options are below it

typedef struct Verb Verb;

typedef struct CommandLine {
    const Verb *verb;
    void *options;                         // the verb's own, verb->options_bytes of them
    const char *path;                      // configuration, checkpoint, run directory, text or key
    const char *overrides[MOST_OVERRIDES]; // key=value
    int override_count;
    const char *words[MOST_WORDS]; // behind the path
    int word_count;
} CommandLine;

// What the field of an option is, in the struct of its verb's options.
typedef enum CliField {
    FIELD_FLAG,   // bool
    FIELD_TEXT,   // const char *
    FIELD_WHOLE,  // int64_t
    FIELD_NUMBER, // double
} CliField;

typedef struct CliOption {
    const char *name;
    const char *value; // what its value is, for messages; NULL: it takes none
    CliField field;
    size_t offset;      // of the field in the verb's options
    double least, most; // of a number
    // Instead of a field. False when the value is not legal.
    bool (*take)(CommandLine *line, const char *value);
} CliOption;

// Rows of a verb's options: a field of `type`, their struct. A field of another C type than the row
// says does not compile.
#define CLI_FIELD(type, field, c_type)                                                             \
    (offsetof(type, field) + 0 * sizeof(&((type *)NULL)->field == (c_type *)NULL))
#define CLI_FLAG(name, type, flag)                                                                 \
    { name, NULL, FIELD_FLAG, CLI_FIELD(type, flag, bool), 0, 0, NULL }
#define CLI_TEXT(name, value, type, text)                                                          \
    { name, value, FIELD_TEXT, CLI_FIELD(type, text, const char *), 0, 0, NULL }
#define CLI_WHOLE(name, value, type, whole, least, most)                                           \
    { name, value, FIELD_WHOLE, CLI_FIELD(type, whole, int64_t), least, most, NULL }
#define CLI_NUMBER(name, value, type, number, least, most)                                         \
    { name, value, FIELD_NUMBER, CLI_FIELD(type, number, double), least, most, NULL }
#define CLI_TAKEN(name, value, take)                                                               \
    { name, value, FIELD_FLAG, 0, 0, 0, take }
#define CLI_END                                                                                    \
    { NULL, NULL, FIELD_FLAG, 0, 0, 0, NULL }

struct Verb {
    const char *name;         // NULL: training, the command without a word of its own
    const char *help;         // lines of --help
    const char *path;         // what the first plain word is
    bool alone;               // whether the path may be left out
    int words;                // plain words that may follow it
    const char *one_too_many; // what somebody means with one more; NULL: nothing in particular
    bool overrides;           // whether key=value may follow
    bool starts_runs;         // and hands signals on to them

    const CliOption *options; // ended by CLI_END; NULL: none
    size_t options_bytes;
    const void *defaults; // of options; NULL: zeros

    // Whether words and options go together; may fill in what follows from them, also which verb
    // the line really is. False with exit 2. NULL: always. Not collective.
    bool (*check)(CommandLine *line, Error *err);
    // Either of these; both return the exit code. One process, which is rank 0 where mpirun has
    // started several:
    int (*run)(const CommandLine *line, Error *err);
    // All ranks. Collective over all ranks.
    int (*run_ranks)(const CommandLine *line, Error *err);
};

// Fills *line with pointers into argv. False with exit 2, the word and the fix. Needs cli_free
// either way. Not collective.
bool cli_parse(CommandLine *line, int argc, char **argv, Error *err);
void cli_free(CommandLine *line);

void cli_print_usage(FILE *out);

#endif
