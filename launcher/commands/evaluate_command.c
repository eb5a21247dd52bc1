// mpirun -np N moetrain evaluate CHECKPOINT.
#include <string.h>

#include "launcher/line_config.h"
#include "launcher/verbs.h"
#include "worker/evaluate_run.h"

// clang-format off
static const char HELP[] =
    "\n  mpirun -np N moetrain evaluate CHECKPOINT [key=value ...]   loss on data.validation\n"
    "      --per-document     a line of JSON for each document, and one for all\n"
    "      --weights KIND     held in f32, bf16, fp16 or int8 (scales by row); all: a table of loss, bytes,\n"
    "                         speed and moved choices of experts (as train.precision has them)\n"
    "      --choices FILE     instead: how often the right one of several choices is the likeliest; lines of\n"
    "                         {\"context\": TEXT, \"choices\": [TEXT, ...], \"gold\": N}; --json: each answer\n";
// clang-format on

static bool take_weights(CommandLine *line, const char *value) {
    EvaluateOptions *options = line->options;
    options->every_weights = strcmp(value, "all") == 0;
    return options->every_weights || weight_kind_find(value, &options->weights);
}

static const CliOption OPTIONS[] = {
    CLI_TEXT("--choices", "a file of JSON lines", EvaluateOptions, choices),
    CLI_FLAG("--json", EvaluateOptions, json),
    CLI_TAKEN("--weights", "trained, f32, bf16, fp16, int8 or all", take_weights),
    CLI_FLAG("--per-document", EvaluateOptions, per_document), CLI_END};

static bool check(CommandLine *line, Error *err) {
    const EvaluateOptions *options = line->options;
    if (options->json && !options->choices)
        return error_set(err, EXIT_CONFIG,
                         "command line: --json is of --choices FILE; add it, or leave --json out");
    if (options->per_document && options->choices)
        return error_set(err, EXIT_CONFIG,
                         "command line: --choices has no documents; leave --per-document out");
    if (options->every_weights && (options->choices || options->per_document))
        return error_set(err, EXIT_CONFIG,
                         "command line: --weights all prints a table of losses; leave %s out",
                         options->choices ? "--choices" : "--per-document");
    return true;
}

static int evaluate(const CommandLine *line, const Config *config, const TrainConfig *train,
                    Error *err) {
    return evaluate_run(train, config->source, line->options, err);
}

static int run(const CommandLine *line, Error *err) {
    return with_shared_config(line, CONFIG_OF_CHECKPOINT, evaluate, err);
}

const Verb EVALUATE_VERB = {
    .name = "evaluate",
    .help = HELP,
    .path = "a checkpoint",
    .overrides = true,
    .options = OPTIONS,
    .options_bytes = sizeof(EvaluateOptions),
    .check = check,
    .run_ranks = run,
};
