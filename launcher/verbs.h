// All verbs of the command line. A new one is a file with its Verb and a row in verbs.c.
#ifndef MOETRAIN_LAUNCHER_VERBS_H
#define MOETRAIN_LAUNCHER_VERBS_H

#include "launcher/cli.h"

// In the order of --help, ended by NULL; the first is training.
extern const Verb *const VERBS[];

extern const Verb TRAIN_VERB, PLAN_VERB, HELP_VERB;
extern const Verb EVALUATE_VERB, GENERATE_VERB, ANALYSE_VERB, INSPECT_VERB;
extern const Verb EXPORT_VERB, IMPORT_VERB, UPCYCLE_VERB;
extern const Verb TRAIN_TOKENIZER_VERB, CONVERT_TOKENIZER_VERB, TOKENIZE_VERB;
extern const Verb SUPERVISE_VERB, SLURM_VERB, COMPARE_VERB, SCALE_VERB, SIMULATE_VERB;
extern const Verb STATUS_VERB, CHECKPOINT_VERB;
extern const Verb DIFF_RUNS_VERB, DATA_VERB, CHECKPOINT_NOW_VERB, SET_VERB, STOP_VERB;

// Of options that stand for a verb: --help and --version.
extern const Verb USAGE_VERB, VERSION_VERB;

#endif
