// The command line: which verb, which file, which options.
#ifndef MOETRAIN_LAUNCHER_CLI_H
#define MOETRAIN_LAUNCHER_CLI_H

#include <stdio.h>

#include "checkpoint/checkpoint.h"
#include "launcher/compare/compare_command.h"
#include "launcher/slurm/batch_script.h"
#include "launcher/supervisor/supervise.h"
#include "worker/analysis/analyse.h"
#include "worker/evaluate.h"
#include "worker/generation/generate.h"
#include "worker/huggingface/export_model.h"
#include "worker/tokenizer/tokenize.h"
#include "worker/tokenizer/train_tokenizer.h"

typedef enum Verb {
    VERB_TRAIN,
    VERB_EVALUATE,
    VERB_GENERATE,
    VERB_ANALYSE,
    VERB_INSPECT,
    VERB_PLAN,
    VERB_PRINT_CONFIG,
    VERB_SUPERVISE,
    VERB_SLURM,
    VERB_COMPARE,
    VERB_STATUS,
    VERB_CHECKPOINT, // `path` is what to do, `words` with what
    VERB_DATA,       // likewise
    VERB_DIFF_RUNS,  // `path` and the word are run directories
    VERB_CHECKPOINT_NOW,
    VERB_STOP,
    VERB_SET,
    VERB_EXPORT, // `path` is the form, `words` from what to what
    VERB_IMPORT,
    VERB_UPCYCLE,           // `words` has the new checkpoint
    VERB_CONVERT_TOKENIZER, // `path` has ranks of tiktoken
    VERB_TRAIN_TOKENIZER,   // `path` and `words` are texts
    VERB_TOKENIZE,          // `path` is a text, or a file of tokens
    VERB_HELP,              // with a key in `path`, or all keys when NULL
    VERB_USAGE,
    VERB_VERSION,
} Verb;

enum { MOST_OVERRIDES = 256, MOST_WORDS = 1024 };

typedef struct CommandLine {
    Verb verb;
    const char *path;                      // configuration, checkpoint, run directory, text or key
    const char *overrides[MOST_OVERRIDES]; // key=value
    int override_count;
    const char *words[MOST_WORDS]; // behind the path
    int word_count;
    CheckpointKeep keep; // checkpoint prune
    bool digest;         // inspect
    bool json;           // status
    int ranks;           // plan, supervise, compare
    EvaluateOptions evaluate;
    GenerateOptions generate;
    AnalyseOptions analyse;
    ExportOptions export;
    SuperviseOptions supervise;
    SlurmOptions slurm;
    CompareOptions compare;
    TrainTokenizerOptions train_tokenizer;
    TokenizeOptions tokenize;
} CommandLine;

// Fills *line with pointers into argv. False with exit 2, the word and the fix. Not collective.
bool cli_parse(CommandLine *line, int argc, char **argv, Error *err);

void cli_print_usage(FILE *out);
void cli_print_help(FILE *out);

#endif
