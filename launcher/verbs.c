#include "launcher/verbs.h"

const Verb *const VERBS[] = {
    &TRAIN_VERB,
    &PLAN_VERB,
    &HELP_VERB,
    // what a checkpoint is good for
    &EVALUATE_VERB,
    &GENERATE_VERB,
    &ANALYSE_VERB,
    &INSPECT_VERB,
    &EXPORT_VERB,
    &IMPORT_VERB,
    &UPCYCLE_VERB,
    // data
    &TRAIN_TOKENIZER_VERB,
    &CONVERT_TOKENIZER_VERB,
    &TOKENIZE_VERB,
    // runs
    &SUPERVISE_VERB,
    &SLURM_VERB,
    &COMPARE_VERB,
    &SCALE_VERB,
    &SIMULATE_VERB,
    &STATUS_VERB,
    &CHECKPOINT_VERB,
    &DIFF_RUNS_VERB,
    &DATA_VERB,
    &CHECKPOINT_NOW_VERB,
    &SET_VERB,
    &STOP_VERB,
    NULL,
};
