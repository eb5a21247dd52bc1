// The command line: which verb, which file, which options.
#ifndef MOETRAIN_LAUNCHER_CLI_H
#define MOETRAIN_LAUNCHER_CLI_H

#include <stdio.h>

#include "checkpoint/checkpoint.h"
#include "launcher/supervisor/supervise.h"
#include "worker/generate.h"

typedef enum Verb {
    VERB_TRAIN,
    VERB_EVALUATE,
    VERB_GENERATE,
    VERB_INSPECT,
    VERB_PLAN,
    VERB_PRINT_CONFIG,
    VERB_SUPERVISE,
    VERB_STATUS,
    VERB_CHECKPOINT, // `path` is what to do, `words` with what
    VERB_CHECKPOINT_NOW,
    VERB_STOP,
    VERB_SET,
    VERB_HELP, // with a key in `path`, or all keys when NULL
    VERB_USAGE,
    VERB_VERSION,
} Verb;

enum { MOST_OVERRIDES = 256, MOST_WORDS = 2 };

typedef struct CommandLine {
    Verb verb;
    const char *path;                      // configuration, checkpoint, run directory, or key
    const char *overrides[MOST_OVERRIDES]; // key=value
    int override_count;
    const char *words[MOST_WORDS]; // behind the path
    int word_count;
    CheckpointKeep keep; // checkpoint prune
    bool digest;         // inspect
    bool json;           // status
    int ranks;           // plan, supervise
    GenerateOptions generate;
    SuperviseOptions supervise;
} CommandLine;

// Fills *line with pointers into argv. False with exit 2, the word and the fix. Not collective.
bool cli_parse(CommandLine *line, int argc, char **argv, Error *err);

void cli_print_usage(FILE *out);
void cli_print_help(FILE *out);

#endif
